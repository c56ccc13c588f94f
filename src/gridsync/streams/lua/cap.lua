#!lua flags=allow-oom
-- cap: say how many events the log may hold, and what becomes of an append that would be one too many.
-- KEYS[1] meta hash
-- KEYS[2] log stream
-- ARGV[1] cap integer, events; 0 for any number
-- ARGV[2] policy string: block, expire_group or spill
-- Returns the last position that may be given out now, 0 if it may be any
-- Category last-wins
-- Cost O(1)
local meta, cap = KEYS[1], tonumber(ARGV[1])
if cap == 0 then
  redis.call('HDEL', meta, 'cap', 'on_cap', 'full')
  return 0
end
-- As a position, so that an append has only one number to compare.
local full = (redis.call('HGET', meta, 'pos') or 0) + cap - redis.call('XLEN', KEYS[2])
redis.call('HSET', meta, 'cap', ARGV[1], 'on_cap', ARGV[2], 'full', string.format('%.0f', full))
return full

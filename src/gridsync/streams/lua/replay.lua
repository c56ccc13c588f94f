#!lua
-- replay: give a dead letter back to its group, as if it had never been tried.
-- KEYS[1] log stream
-- KEYS[2] retry zset
-- KEYS[3] failed hash
-- KEYS[4] dead stream
-- ARGV[1] group string
-- ARGV[2] letter string: its id among the dead letters
-- ARGV[3] id string: of its event
-- Returns 1 given back, 0 no longer a dead letter, -1 its event is gone from the log
-- Category idempotent
-- Cost O(log pending)
local log, retry, failed, dead, group, letter, id = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], ARGV[2], ARGV[3]
local found = redis.call('XRANGE', dead, letter, letter)[1]
local mark = '0 ' .. #letter .. ' ' .. letter .. ' '
if not found then
  local known = redis.call('HGET', failed, id)
  return known and string.sub(string.match(known, '^%d+ %d+ (.*)$'), 1, #mark) == mark and 1 or 0
end
if #redis.call('XRANGE', log, id, id) == 0 then return -1 end
-- Pending already: its group was made again at an earlier position, and it comes anyway.
if #redis.call('XPENDING', log, group, id, id, '1') == 0 then
  local facts = found[2]
  local problem = facts[12] .. '\n' .. facts[14] .. '\n' .. facts[16]
  redis.call('XCLAIM', log, group, '~parked', '0', id, 'FORCE', 'RETRYCOUNT', '0', 'JUSTID')
  -- Due at once, as any time so long ago is; and several in the order of their positions.
  redis.call('ZADD', retry, string.match(id, '^%d+'), id)
  redis.call('HSET', failed, id, facts[6] .. ' ' .. facts[8] .. ' ' .. mark .. problem)
end
redis.call('XDEL', dead, letter)
return 1

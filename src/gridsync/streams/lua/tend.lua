#!lua flags=allow-oom
-- tend: note how far the group surely has got, and remove consumers that died with nothing pending.
-- KEYS[1] log stream
-- KEYS[2] floors hash
-- KEYS[3] retry zset
-- KEYS[4] failed hash
-- KEYS[5] waiting zset
-- KEYS[6] dead stream
-- ARGV[1] group string
-- ARGV[2] dead_after integer, ms
-- Returns {floor: every event up to this position is acknowledged; undelivered, pending, when the oldest unsettled event
-- was committed (us, 0: none), parked, waiting, dead}
-- Category idempotent
-- Cost O(consumers + groups), and once a list was lost O(parked log parked), at most 1000 a call
local log, floors, retry, failed, waiting = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, dead_after = ARGV[1], tonumber(ARGV[2])
-- include parts/progress.lua
local floor, undelivered, pending, since, holding = progress()
if not floor then return redis.error_reply('NOGROUP ' .. group .. ' is gone') end
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', log, group)) do
  local info = {}
  for k = 1, #row, 2 do info[row[k]] = row[k + 1] end
  if info['pending'] == 0 and info['idle'] > dead_after then
    redis.call('XGROUP', 'DELCONSUMER', log, group, info['name'])
  end
end
-- Parked and on no list, or behind nobody knows what: a key was evicted, or deleted by hand.
local parked = 0
for _, row in ipairs(holding) do
  if row[1] == '~parked' then parked = tonumber(row[2]) end
end
if parked > 0 and redis.call('EXISTS', failed) == 0 then redis.call('DEL', waiting) end
if parked > redis.call('ZCARD', retry) + redis.call('ZCARD', waiting) then
  for _, row in ipairs(redis.call('XPENDING', log, group, '-', '+', '1000', '~parked')) do
    redis.call('ZADD', retry, 'NX', '0', row[1])
  end
end
local clock = redis.call('TIME')
redis.call('HSET', floors, group, floor .. ' ' .. clock[1] .. string.format('%03d', math.floor(clock[2] / 1000)))
return {floor, undelivered, pending, tonumber(since), redis.call('ZCARD', retry), redis.call('ZCARD', waiting), redis.call('XLEN', KEYS[6])}

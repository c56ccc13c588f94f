#!lua
-- once: take this period's turn, unless somebody took it.
-- Periods are counted from 1970 on the server's clock.  The same run asking again, after a lost reply, is told the same.
-- KEYS[1] turn hash: p the period that was taken last, o the run that took it, t its fence; lives for two periods
-- ARGV[1] run string
-- ARGV[2] period integer, us
-- Returns {1, period, fence} | {0, period, us until the next one}
-- Category idempotent
-- Cost O(1)
local last = redis.call('HMGET', KEYS[1], 'p', 'o', 't')
if last[2] == ARGV[1] then return {1, tonumber(last[1]), tonumber(last[3])} end
local time = redis.call('TIME')
local us, length = time[1] * 1000000 + time[2], tonumber(ARGV[2])
local period = math.floor(us / length)
-- A clock that was set back starts no period a second time.
if last[1] and tonumber(last[1]) >= period then
  return {0, period, (tonumber(last[1]) + 1) * length - us}
end
-- A later period begins later, so its fence is larger.
redis.call('HSET', KEYS[1], 'p', string.format('%.0f', period), 'o', ARGV[1], 't', string.format('%.0f', us))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(2 * length / 1000)))
return {1, period, us}

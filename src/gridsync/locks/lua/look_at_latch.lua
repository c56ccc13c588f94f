#!lua
-- look_at_latch: say what remains of the latch, and wait for the rest to come.
-- KEYS[1] state hash: c the count, n what remains of it
-- KEYS[2] alive zset: waiter, by the server ms until which it counts as alive
-- ARGV[1] count integer, count: what the latch starts from
-- ARGV[2] ttl integer, ms: how long the latch is kept after its last use
-- ARGV[3] waiter string
-- ARGV[4] alive integer, ms: how long this waiter counts as alive; 0 does not wait
-- Returns {remaining, count}; the waiter does not wait if that is not the count that was given
-- Category idempotent
-- Cost O(log waiters)
local S, W = KEYS[1], KEYS[2]
local alive = tonumber(ARGV[4])
local count = tonumber(redis.call('HGET', S, 'c') or ARGV[1])
local rest = tonumber(redis.call('HGET', S, 'n') or ARGV[1])
if rest > 0 and alive > 0 and count == tonumber(ARGV[1]) then
  redis.call('HSETNX', S, 'c', ARGV[1])
  redis.call('HSETNX', S, 'n', ARGV[1])
  redis.call('PEXPIRE', S, math.max(tonumber(ARGV[2]), alive * 2))
  local time = redis.call('TIME')
  local now = math.floor((time[1] * 1000000 + time[2]) / 1000)
  redis.call('ZREMRANGEBYSCORE', W, '-inf', now)
  redis.call('ZADD', W, now + alive, ARGV[3])
  redis.call('PEXPIRE', W, alive * 2)
end
return {rest, count}

#!lua flags=allow-oom
-- uphold: let one master's vote run for its full length again, or ask for it anew where it was lost.
-- A vote that was lost and is given again does not count at once: somebody else may have had it in between.
-- KEYS[1] state hash: o owner, t fence, s since when in server ms, m about the owner; lives as long as the lease
-- KEYS[2] queue zset: waiter, by ticket: the server us of its arrival
-- KEYS[3] alive hash: waiter, to "<the server ms until which it counts as alive> <about it>"
-- KEYS[4] fence string: the last fence given out
-- KEYS[5] gone zset: owner that gave up while a request of its own was on its way, by the server ms until which it may be
-- ARGV[1] owner string
-- ARGV[2] lease integer, ms
-- ARGV[3] fence integer, us
-- ARGV[4] fence_ttl integer, ms
-- ARGV[5] about string: who that is, for others to read
-- Returns 1 the vote holds | 2 it was lost, and is given again | 0 it is another's, or was given back
-- Category idempotent
-- Cost O(1), and O(log waiters) to give it again
local S, Q, W, F, G, me = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], ARGV[1]
local owner = redis.call('HGET', S, 'o')
if owner ~= me and (owner or redis.call('ZSCORE', G, me)) then return 0 end
if tonumber(redis.call('GET', F) or '0') < tonumber(ARGV[3]) then redis.call('SET', F, ARGV[3], 'PX', ARGV[4]) end
if not owner then
  local time = redis.call('TIME')
  local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('HSET', S, 'o', me, 't', ARGV[3], 's', now, 'm', ARGV[5])
  -- Here it waited, while a majority of the others was enough.
  redis.call('ZREM', Q, me)
  redis.call('HDEL', W, me)
end
redis.call('PEXPIRE', S, ARGV[2])
return owner and 1 or 2

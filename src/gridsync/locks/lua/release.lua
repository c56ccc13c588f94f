#!lua flags=allow-oom
-- release: give the lock back and hand it to the next living waiter; for a waiter: leave the queue.
-- A lock that nobody holds any more is handed on as well.
-- The hand-over is written into the state, with its fence and a short expiry; the message is only a hint.
-- KEYS[1] state hash: o owner, t fence; lives as long as the lease
-- KEYS[2] queue zset: waiter, by ticket
-- KEYS[3] alive zset: waiter, by the server ms until which it counts as alive
-- KEYS[4] fence string: the last fence given out
-- ARGV[1] owner string
-- ARGV[2] claim integer, ms: how long the next one has to claim what it is handed
-- ARGV[3] fence_ttl integer, ms
-- ARGV[4] wake_prefix string: a waiter listens on this plus the first 12 characters of its name
-- ARGV[5] repeat_us integer, us
-- Returns 1 released | 0 was not held by this owner | 2 not held now, but an earlier attempt may have released it
-- Category idempotent
-- Cost O(log waiters), plus O(log waiters) for each dead waiter that is dropped
local S, Q, W, F = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local me, claim = ARGV[1], tonumber(ARGV[2])
local code, owner = 1, redis.call('HGET', S, 'o')
if owner ~= me then
  redis.call('ZREM', Q, me)
  redis.call('ZREM', W, me)
  code = tonumber(ARGV[5]) > 0 and 2 or 0
  if owner then return code end
  -- Nobody holds it: whoever gives up now may have been the only one who knew that it was its turn.
end
local head = redis.call('ZRANGE', Q, 0, 0)[1]
local us, now
if head then
  local time = redis.call('TIME')
  us = time[1] * 1000000 + time[2]
  now = math.floor(us / 1000)
end
while head do
  -- We are still in the queue if we give up what was handed to us and not claimed: it must not come back to us.
  local until_ms = head ~= me and redis.call('ZSCORE', W, head)
  if until_ms and tonumber(until_ms) > now then
    local fence = string.format('%.0f', math.max(us, tonumber(redis.call('GET', F) or '0') + 1))
    redis.call('SET', F, fence, 'PX', ARGV[3])
    redis.call('HSET', S, 'o', head, 't', fence)
    redis.call('PEXPIRE', S, claim)
    -- Not claimed in time counts as dead, so that the next one is not held up a second time.
    redis.call('ZADD', W, now + claim, head)
    redis.call('PUBLISH', ARGV[4] .. string.sub(head, 1, 12), head)
    return code
  end
  redis.call('ZREM', Q, head)
  redis.call('ZREM', W, head)
  head = redis.call('ZRANGE', Q, 0, 0)[1]
end
-- Only if nobody is there: while a Cluster slot moves, a key that was deleted counts as moved and takes no HSET.
redis.call('DEL', S)
return code

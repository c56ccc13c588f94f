#!lua flags=allow-oom
-- release: give the lock back and hand it to the next living waiter; for a waiter: leave the queue.
-- A lock that nobody holds any more is handed on as well.
-- The hand-over is written into the state, with its fence and a short expiry; the message is only a hint, and carries
-- what the next one needs to begin at once.  Whom it was handed to has left the queue.
-- KEYS[1] state hash: o owner, t fence, s since when in server ms, m about the owner; lives as long as the lease
-- KEYS[2] queue zset: waiter, by ticket: the server us of its arrival
-- KEYS[3] alive hash: waiter, to "<the server ms until which it counts as alive> <about it>"
-- KEYS[4] fence string: the last fence given out
-- KEYS[5] gone zset: owner that gave up while a request of its own was on its way, by the server ms until which it may be
-- ARGV[1] owner string
-- ARGV[2] claim integer, ms: how long the next one has to take up what it is handed
-- ARGV[3] fence_ttl integer, ms
-- ARGV[4] wake_prefix string: a waiter listens on this plus the first 12 characters of its name
-- ARGV[5] patience integer, ms: whoever came less than this ago may be overtaken; 0 is first come first served
-- ARGV[6] gone integer, ms: how long a request of this owner's may still be on its way; it will be refused
-- ARGV[7] repeat_us integer, us
-- Returns {1 released | 0 was not held by this owner | 2 not held now, but an earlier attempt may have released it,
-- message..}: a message to a waiter of the owner's own process is not published but left to the caller
-- Category idempotent
-- Cost O(log waiters), plus O(log waiters) for each dead waiter that is dropped
local S, Q, W, F, G = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local me, claim, patience, gone = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5]), tonumber(ARGV[6])
local process = string.sub(me, 1, 12)
local code, owner = 1, redis.call('HGET', S, 'o')
local head = redis.call('ZRANGE', Q, 0, 0)[1]
local us, now
if head or gone > 0 then
  local time = redis.call('TIME')
  us = time[1] * 1000000 + time[2]
  now = math.floor(us / 1000)
end
if gone > 0 then
  redis.call('ZREMRANGEBYSCORE', G, '-inf', now)
  redis.call('ZADD', G, now + gone, me)
  redis.call('PEXPIRE', G, gone)
end
if owner ~= me then
  redis.call('ZREM', Q, me)
  redis.call('HDEL', W, me)
  code = tonumber(ARGV[7]) > 0 and 2 or 0
  -- An earlier reply may have been lost, and with it the word for a waiter of the same process.
  if owner then return string.sub(owner, 1, 12) == process and {code, owner} or {code} end
  -- Nobody holds it: whoever gives up now may have been the only one who knew that it was its turn.
  head = redis.call('ZRANGE', Q, 0, 0)[1]
end
while head do
  local alive_ms, about = string.match(redis.call('HGET', W, head) or '0 ', '^(%d+) (.*)$')
  if tonumber(alive_ms) > now then
    local word = head
    if patience > 0 and us - redis.call('ZSCORE', Q, head) < patience * 1000 then
      redis.call('DEL', S)
    else
      local fence = string.format('%.0f', math.max(us, tonumber(redis.call('GET', F) or '0') + 1))
      redis.call('SET', F, fence, 'PX', ARGV[3])
      redis.call('HSET', S, 'o', head, 't', fence, 's', string.format('%.0f', now), 'm', about)
      redis.call('PEXPIRE', S, claim)
      redis.call('ZREM', Q, head)
      redis.call('HDEL', W, head)
      word = head .. ' ' .. fence .. ' ' .. string.format('%.0f', us) .. ' ' .. ARGV[2]
    end
    if string.sub(head, 1, 12) == process then return {code, word} end
    redis.call(string.byte(ARGV[4]) == 123 and 'SPUBLISH' or 'PUBLISH', ARGV[4] .. string.sub(head, 1, 12), word)
    return {code}
  end
  redis.call('ZREM', Q, head)
  redis.call('HDEL', W, head)
  head = redis.call('ZRANGE', Q, 0, 0)[1]
end
-- Only if nobody is there: while a Cluster slot moves, a key that was deleted counts as moved and takes no HSET.
redis.call('DEL', S)
return {code}

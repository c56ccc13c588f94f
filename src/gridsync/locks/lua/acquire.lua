#!lua
-- acquire: take the lock, or join its queue and say where we stand.
-- The same owner asking again is granted again, with the same fence: so it is after a lost reply, and so it is when
-- the lock was handed over while the waiter slept.
-- KEYS[1] state hash: o owner, t fence; lives as long as the lease
-- KEYS[2] queue zset: waiter, by ticket
-- KEYS[3] alive zset: waiter, by the server ms until which it counts as alive
-- KEYS[4] fence string: the last fence given out
-- ARGV[1] owner string
-- ARGV[2] lease integer, ms
-- ARGV[3] alive integer, ms: how long this waiter counts as alive; 0 does not join the queue
-- ARGV[4] fence_ttl integer, ms
-- ARGV[5] claim integer, ms: how long the head of the queue has to claim a free lock
-- ARGV[6] wake_prefix string: a waiter listens on this plus the first 12 characters of its name
-- Returns {1, fence} | {0, ms until the lease of the holder ends (-2 nobody holds it), rank in the queue (-1 not in it)}
-- Category idempotent
-- Cost O(log waiters), plus O(log waiters) for each dead waiter that is dropped
local S, Q, W, F = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local me, lease, alive = ARGV[1], ARGV[2], tonumber(ARGV[3])
local owner = redis.call('HGET', S, 'o')
if owner == me then
  redis.call('ZREM', Q, me)
  redis.call('ZREM', W, me)
  redis.call('PEXPIRE', S, lease)
  return {1, tonumber(redis.call('HGET', S, 't'))}
end
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local head = redis.call('ZRANGE', Q, 0, 0)[1]
while head and head ~= me do
  local until_ms = redis.call('ZSCORE', W, head)
  if until_ms and tonumber(until_ms) > now then break end
  redis.call('ZREM', Q, head)
  redis.call('ZREM', W, head)
  head = redis.call('ZRANGE', Q, 0, 0)[1]
end
if not owner and (not head or head == me) then
  -- Hybrid clock: rises with every holder even if this key was lost, evicted or not replicated.
  local fence = math.max(us, tonumber(redis.call('GET', F) or '0') + 1)
  local text = string.format('%.0f', fence)
  redis.call('SET', F, text, 'PX', ARGV[4])
  redis.call('HSET', S, 'o', me, 't', text)
  redis.call('PEXPIRE', S, lease)
  if head then
    redis.call('ZREM', Q, me)
    redis.call('ZREM', W, me)
  end
  return {1, fence}
end
if not owner then
  -- It is another's turn, who need not know: the one before slept through its claim, or the holder died.  Without a
  -- word, the lock would stay free until the head looks by itself, for ever if that is dead.
  local due = now + tonumber(ARGV[5])
  if tonumber(redis.call('ZSCORE', W, head)) > due then redis.call('ZADD', W, due, head) end
  redis.call('PUBLISH', ARGV[6] .. string.sub(head, 1, 12), head)
end
local rank = -1
if alive > 0 then
  if not redis.call('ZSCORE', Q, me) then
    local tail = redis.call('ZRANGE', Q, -1, -1, 'WITHSCORES')
    redis.call('ZADD', Q, string.format('%.0f', math.max(us, tonumber(tail[2] or '0') + 1)), me)
  end
  redis.call('ZADD', W, now + alive, me)
  -- Twice as long as any waiter counts as alive: the queue cannot vanish under a living one.
  redis.call('PEXPIRE', Q, alive * 2)
  redis.call('PEXPIRE', W, alive * 2)
  rank = redis.call('ZRANK', Q, me)
end
return {0, redis.call('PTTL', S), rank}

#!lua flags=allow-oom
-- unshare: give permits back, or change how many there are, and hand on what is free; for a waiter: leave the queue.
-- The hand-over is written into the state, with its fence and a short expiry; the message is only a hint, and carries
-- what the next one needs to begin at once.  Whom it was handed to has left the queue.  Whoever cannot hear is passed
-- over: a dead process has no connection.  It keeps its place for the time of a claim.
-- KEYS[1] state hash: l how many permits there are, r 1 if a resize said so, u how many are taken
-- KEYS[2] held zset: owner, by the server ms until which it holds
-- KEYS[3] what hash: owner, to "<permits> <fence> <since, server ms> <about it>"
-- KEYS[4] queue zset: waiter, by ticket: the server us of its arrival
-- KEYS[5] alive hash: waiter, to "<the server ms until which it counts as alive> <permits> <about it>"
-- KEYS[6] fence string: the last fence given out
-- KEYS[7] gone zset: owner that gave up while a request of its own was on its way, by the server ms until which it may be
-- ARGV[1] owner string: empty for a resize
-- ARGV[2] keep integer, permits: how many it goes on holding
-- ARGV[3] limit integer, permits: how many there are from now on; 0 as many as before
-- ARGV[4] claim integer, ms: how long a waiter has to take up what it is handed
-- ARGV[5] fence_ttl integer, ms
-- ARGV[6] wake_prefix string: a waiter listens on this plus the first 12 characters of its name
-- ARGV[7] gone integer, ms: how long a request of this owner's may still be on its way; it will be refused
-- ARGV[8] repeat_us integer, us
-- Returns {1 given back | 0 was not held by this owner | 2 not held now, but an earlier attempt may have given it back}
-- Category idempotent
-- Cost O(log waiters + log holders), plus as much for each one that is served, dropped or passed over;
-- O(holders) once after a key was lost
local S, H, P, Q, W, F, G = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local me, stays, claim, gone = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[7])
local fence_ttl, prefix = ARGV[5], ARGV[6]
-- include parts/permits.lua
local until_ms = redis.call('ZSCORE', H, me)
local unknown = until_ms and tonumber(until_ms) > now and not redis.call('HGET', P, me) and stays == 0
-- What it holds was evicted, and not that it holds: as if its lease ended now.
if unknown then redis.call('ZADD', H, whole(now), me) end
count()
if gone > 0 then
  redis.call('ZREMRANGEBYSCORE', G, '-inf', now)
  redis.call('ZADD', G, whole(now + gone), me)
  redis.call('PEXPIRE', G, gone)
end
local code = 1
local held = redis.call('HGET', P, me)
if held then
  local permits, rest = string.match(held, '^(%d+)( .*)$')
  local stay = math.min(stays, tonumber(permits))
  used = used - permits + stay
  if stay > 0 then
    redis.call('HSET', P, me, stay .. rest)
  else
    redis.call('ZREM', H, me)
    redis.call('HDEL', P, me)
  end
elseif not unknown then
  redis.call('ZREM', Q, me)
  redis.call('HDEL', W, me)
  code = tonumber(ARGV[8]) > 0 and 2 or 0
end
local limit = tonumber(redis.call('HGET', S, 'l') or '0')
if tonumber(ARGV[3]) > 0 then
  limit = tonumber(ARGV[3])
  redis.call('HSET', S, 'l', limit, 'r', '1')
end
serve(limit, 0, {})
if limit > 0 then
  redis.call('HSET', S, 'u', used)
  redis.call('PEXPIRE', S, fence_ttl)
end
return {code}

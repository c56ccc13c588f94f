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
-- Cost O(log waiters + log holders), plus as much for each one that is served, dropped or passed over
local S, H, P, Q, W, F, G = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local me, stays, gone = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[7])
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local function whole(number) return string.format('%.0f', number) end
local function keep(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end
local used = tonumber(redis.call('HGET', S, 'u'))
if not used then
  used = 0
  for _, said in ipairs(redis.call('HVALS', P)) do used = used + tonumber(string.match(said, '^%d+')) end
end
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', H, '-inf', now, 'LIMIT', 0, 1000)) do
  used = used - tonumber(string.match(redis.call('HGET', P, owner) or '0', '^%d+'))
  redis.call('ZREM', H, owner)
  redis.call('HDEL', P, owner)
end
if redis.call('EXISTS', H) == 0 then
  -- The key goes with its last lease, before anybody can count what that gave back.
  used = 0
  redis.call('DEL', P)
end
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
else
  redis.call('ZREM', Q, me)
  redis.call('HDEL', W, me)
  code = tonumber(ARGV[8]) > 0 and 2 or 0
end
local limit = tonumber(redis.call('HGET', S, 'l') or '0')
if tonumber(ARGV[3]) > 0 then
  limit = tonumber(ARGV[3])
  redis.call('HSET', S, 'l', limit, 'r', '1')
end
local sharded = string.byte(ARGV[6]) == 123
local function give(to, permits, about)
  redis.call('ZREM', Q, to)
  redis.call('HDEL', W, to)
  -- Hybrid clock: rises with every holder even if this key was lost, evicted or not replicated.
  local fence = whole(math.max(us, tonumber(redis.call('GET', F) or '0') + 1))
  redis.call('SET', F, fence, 'PX', ARGV[5])
  redis.call('ZADD', H, whole(now + ARGV[4]), to)
  redis.call('HSET', P, to, permits .. ' ' .. fence .. ' ' .. whole(now) .. ' ' .. about)
  keep(H, tonumber(ARGV[4]))
  keep(P, tonumber(ARGV[4]))
  used = used + permits
  local word = to .. ' ' .. fence .. ' ' .. whole(us) .. ' ' .. ARGV[4]
  redis.pcall(sharded and 'SPUBLISH' or 'PUBLISH', ARGV[6] .. string.sub(to, 1, 12), word)
end
local passed, overtaken, deaf = {}, 0, {}
local waiter = redis.call('ZRANGE', Q, 0, 0)[1]
while waiter do
  local home = string.sub(waiter, 1, 12)
  local alive_ms, permits, about = string.match(redis.call('HGET', W, waiter) or '0 0 ', '^(%d+) (%d+) (.*)$')
  if tonumber(alive_ms) <= now then
    redis.call('ZREM', Q, waiter)
    redis.call('HDEL', W, waiter)
  else
    if deaf[home] == nil then
      deaf[home] = redis.pcall('PUBSUB', sharded and 'SHARDNUMSUB' or 'NUMSUB', ARGV[6] .. home)[2] == 0
    end
    if deaf[home] then
      passed[#passed + 1] = {waiter, permits, about, alive_ms}
    else
      if used + permits > limit then break end
      give(waiter, permits, about)
      overtaken = #passed
    end
  end
  waiter = redis.call('ZRANGE', Q, #passed, #passed)[1]
end
for place, each in ipairs(passed) do
  if place <= overtaken or used + each[2] <= limit then
    -- Its turn came: it keeps its place for as long as it would have had to take up what it was handed.
    redis.call('HSET', W, each[1], whole(math.min(each[4], now + ARGV[4])) .. ' ' .. each[2] .. ' ' .. each[3])
  end
end
if limit > 0 then
  redis.call('HSET', S, 'u', used)
  redis.call('PEXPIRE', S, ARGV[5])
end
return {code}

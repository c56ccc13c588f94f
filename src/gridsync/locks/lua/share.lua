#!lua
-- share: take some of the permits there are, or join the queue for them and say where we stand.
-- The same owner asking again is granted again, with the same fence.  Whoever is first in the queue and fits is served
-- on the way, as by unshare: the one before may have died.  Whoever cannot hear is passed over: a dead process has no
-- connection.  It keeps its place for the time of a claim.
-- KEYS[1] state hash: l how many permits there are, r 1 if a resize said so, u how many are taken
-- KEYS[2] held zset: owner, by the server ms until which it holds
-- KEYS[3] what hash: owner, to "<permits> <fence> <since, server ms> <about it>"
-- KEYS[4] queue zset: waiter, by ticket: the server us of its arrival
-- KEYS[5] alive hash: waiter, to "<the server ms until which it counts as alive> <permits> <about it>"
-- KEYS[6] fence string: the last fence given out
-- KEYS[7] gone zset: owner that gave up while a request of its own was on its way, by the server ms until which it may be
-- ARGV[1] owner string
-- ARGV[2] lease integer, ms
-- ARGV[3] alive integer, ms: how long this waiter counts as alive; 0 does not join the queue
-- ARGV[4] about string: who that is, for others to read
-- ARGV[5] permits integer, permits: how many it takes
-- ARGV[6] limit integer, permits: how many there are unless a resize said otherwise
-- ARGV[7] fence_ttl integer, ms
-- ARGV[8] claim integer, ms: how long a waiter has to take up what it is handed
-- ARGV[9] wake_prefix string: a waiter listens on this plus the first 12 characters of its name
-- ARGV[10] repeat_us integer, us
-- Returns {1, fence, again} | {0, ms until the first lease ends (-2 nobody holds any), rank in the queue (-1 not in it),
-- server us, last fence, again}; again is 1 if an earlier attempt may still be on its way, else 0
-- Category idempotent
-- Cost O(log waiters + log holders), plus as much for each one that is served, dropped or passed over
local S, H, P, Q, W, F, G = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local me, lease, alive, wants = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[5])
local again = tonumber(ARGV[10]) > 0 and 1 or 0
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local function whole(number) return string.format('%.0f', number) end
local function keep(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end
local until_ms = redis.call('ZSCORE', H, me)
if until_ms and tonumber(until_ms) > now then
  redis.call('ZADD', H, whole(now + lease), me)
  keep(H, lease)
  keep(P, lease)
  return {1, tonumber(string.match(redis.call('HGET', P, me), '^%d+ (%d+)')), again}
end
if redis.call('ZSCORE', G, me) then return {0, -2, -1, us, 0, again} end
local limit = tonumber(redis.call('HGET', S, 'l') or ARGV[6])
if limit ~= tonumber(ARGV[6]) and not redis.call('HGET', S, 'r') then
  -- A program that was changed may say another number, but not while those of the old one are at work.
  if redis.call('EXISTS', Q) + redis.call('ZCOUNT', H, now + 1, '+inf') > 0 then
    return redis.error_reply('MISMATCH it has ' .. limit .. ' permits')
  end
  limit = tonumber(ARGV[6])
end
if wants > limit then return redis.error_reply('TOOMANY it has ' .. limit .. ' permits') end
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
local mine
local function give(to, permits, about, term)
  -- Hybrid clock: rises with every holder even if this key was lost, evicted or not replicated.
  local fence = math.max(us, tonumber(redis.call('GET', F) or '0') + 1)
  redis.call('SET', F, whole(fence), 'PX', ARGV[7])
  redis.call('ZADD', H, whole(now + term), to)
  redis.call('HSET', P, to, permits .. ' ' .. whole(fence) .. ' ' .. whole(now) .. ' ' .. about)
  keep(H, term)
  keep(P, term)
  used = used + permits
  if to == me then mine = fence end
  return fence
end
if redis.call('EXISTS', Q) == 1 or used + wants > limit then
  if alive > 0 then
    if not redis.call('ZSCORE', Q, me) then
      local tail = redis.call('ZRANGE', Q, -1, -1, 'WITHSCORES')
      redis.call('ZADD', Q, whole(math.max(us, tonumber(tail[2] or '0') + 1)), me)
    end
    redis.call('HSET', W, me, whole(now + alive) .. ' ' .. ARGV[5] .. ' ' .. ARGV[4])
    -- Longer than any waiter counts as alive: the queue cannot vanish under a living one.
    if redis.call('PTTL', Q) < alive then redis.call('PEXPIRE', Q, alive * 2) end
    if redis.call('PTTL', W) < alive then redis.call('PEXPIRE', W, alive * 2) end
  end
  local sharded = string.byte(ARGV[9]) == 123
  local function serve(waiter, permits, about)
    redis.call('ZREM', Q, waiter)
    redis.call('HDEL', W, waiter)
    local fence = give(waiter, tonumber(permits), about, waiter == me and lease or tonumber(ARGV[8]))
    if waiter == me then return end
    local word = waiter .. ' ' .. whole(fence) .. ' ' .. whole(us) .. ' ' .. ARGV[8]
    redis.pcall(sharded and 'SPUBLISH' or 'PUBLISH', ARGV[9] .. string.sub(waiter, 1, 12), word)
  end
  local passed, overtaken, deaf = {}, 0, {[string.sub(me, 1, 12)] = false}
  local waiter = redis.call('ZRANGE', Q, 0, 0)[1]
  while waiter do
    local home = string.sub(waiter, 1, 12)
    local alive_ms, permits, about = string.match(redis.call('HGET', W, waiter) or '0 0 ', '^(%d+) (%d+) (.*)$')
    if tonumber(alive_ms) <= now then
      redis.call('ZREM', Q, waiter)
      redis.call('HDEL', W, waiter)
    else
      if deaf[home] == nil then
        deaf[home] = redis.pcall('PUBSUB', sharded and 'SHARDNUMSUB' or 'NUMSUB', ARGV[9] .. home)[2] == 0
      end
      if deaf[home] then
        passed[#passed + 1] = {waiter, permits, about, alive_ms}
      else
        if used + permits > limit then break end
        serve(waiter, permits, about)
        overtaken = #passed
      end
    end
    waiter = redis.call('ZRANGE', Q, #passed, #passed)[1]
  end
  for place, each in ipairs(passed) do
    if place <= overtaken or used + each[2] <= limit then
      -- Its turn came: it keeps its place for as long as it would have had to take up what it was handed.
      redis.call('HSET', W, each[1], whole(math.min(each[4], now + ARGV[8])) .. ' ' .. each[2] .. ' ' .. each[3])
    end
  end
end
if not mine and redis.call('EXISTS', Q) == 0 and used + wants <= limit then give(me, wants, ARGV[4], lease) end
redis.call('HSET', S, 'l', limit, 'u', used)
redis.call('PEXPIRE', S, ARGV[7])
if mine then return {1, mine, again} end
local first = redis.call('ZRANGE', H, 0, 0, 'WITHSCORES')[2]
local rank = alive > 0 and redis.call('ZRANK', Q, me) or -1
return {0, first and tonumber(first) - now or -2, rank, us, tonumber(redis.call('GET', F) or '0'), again}

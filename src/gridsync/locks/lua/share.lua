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
-- Cost O(log waiters + log holders), plus as much for each one that is served, dropped or passed over;
-- O(holders) once after a key was lost
local S, H, P, Q, W, F, G = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local me, lease, alive, wants = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[5])
local claim, fence_ttl, prefix = tonumber(ARGV[8]), ARGV[7], ARGV[9]
local again = tonumber(ARGV[10]) > 0 and 1 or 0
-- include parts/permits.lua
local until_ms, held = redis.call('ZSCORE', H, me), redis.call('HGET', P, me)
if held and until_ms and tonumber(until_ms) > now then
  redis.call('ZADD', H, whole(now + lease), me)
  keep(H, lease)
  keep(P, lease)
  return {1, tonumber(string.match(held, '^%d+ (%d+)')), again}
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
count()
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
  serve(limit, lease, {[string.sub(me, 1, 12)] = false})
end
if not mine and redis.call('EXISTS', Q) == 0 and used + wants <= limit then mine = give(me, wants, ARGV[4], lease) end
redis.call('HSET', S, 'l', limit, 'u', used)
redis.call('PEXPIRE', S, fence_ttl)
if mine then return {1, mine, again} end
local first = redis.call('ZRANGE', H, 0, 0, 'WITHSCORES')[2]
local rank = alive > 0 and redis.call('ZRANK', Q, me) or -1
return {0, first and tonumber(first) - now or -2, rank, us, tonumber(redis.call('GET', F) or '0'), again}

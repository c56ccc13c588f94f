#!lua
-- acquire: take the lock, or join its queue and say where we stand.
-- The same owner asking again is granted again, with the same fence: so it is after a lost reply, and so it is when
-- the lock was handed over while the waiter slept.  A free lock that is another's turn is handed over, as by release:
-- without a word it would stay free until the head of the queue looks by itself, for ever if that is dead.  It goes to
-- the first who can hear of it, which may be the one who asks: a dead process has no connection.
-- KEYS[1] state hash: o owner, t fence, s since when in server ms, m about the owner; lives as long as the lease
-- KEYS[2] queue zset: waiter, by ticket: the server us of its arrival
-- KEYS[3] alive hash: waiter, to "<the server ms until which it counts as alive> <about it>"
-- KEYS[4] fence string: the last fence given out
-- KEYS[5] gone zset: owner that gave up while a request of its own was on its way, by the server ms until which it may be
-- ARGV[1] owner string
-- ARGV[2] lease integer, ms
-- ARGV[3] alive integer, ms: how long this waiter counts as alive; 0 does not join the queue
-- ARGV[4] about string: who that is, for others to read
-- ARGV[5] fence_ttl integer, ms
-- ARGV[6] claim integer, ms: how long the next one has to take up what it is handed
-- ARGV[7] wake_prefix string: a waiter listens on this plus the first 12 characters of its name
-- ARGV[8] patience integer, ms: whoever came less than this ago may be overtaken; 0 is first come first served
-- ARGV[9] repeat_us integer, us
-- Returns {1, fence, again} | {0, ms until the lease of the holder ends (-2 nobody holds it), rank in the queue (-1 not
-- in it), server us, last fence, again}; again is 1 if an earlier attempt may still be on its way, else 0
-- Category idempotent
-- Cost O(log waiters), plus O(log waiters) for each waiter that is dead or cannot hear
local S, Q, W, F, G = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local me, alive, claim, patience = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[6]), tonumber(ARGV[8])
local again = tonumber(ARGV[9]) > 0 and 1 or 0
local owner = redis.call('HGET', S, 'o')
if owner == me then
  redis.call('PEXPIRE', S, ARGV[2])
  return {1, tonumber(redis.call('HGET', S, 't')), again}
end
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local last = tonumber(redis.call('GET', F) or '0')
-- Hybrid clock: rises with every holder even if this key was lost, evicted or not replicated.
local fence = math.max(us, last + 1)
local text = string.format('%.0f', fence)
local function look(place)
  -- Who waits there and is alive, or is the one who asks; the dead are dropped.
  while true do
    local waiter = redis.call('ZRANGE', Q, place, place)[1]
    if not waiter or waiter == me then return waiter, ARGV[4] end
    local alive_ms, about = string.match(redis.call('HGET', W, waiter) or '0 ', '^(%d+) (.*)$')
    if tonumber(alive_ms) > now then return waiter, about, tonumber(alive_ms) end
    redis.call('ZREM', Q, waiter)
    redis.call('HDEL', W, waiter)
  end
end
local head
if redis.call('EXISTS', Q, G) > 0 then
  if redis.call('ZSCORE', G, me) then return {0, -2, -1, us, last, again} end
  head = look(0)
end
local function give(to, about, lease)
  redis.call('SET', F, text, 'PX', ARGV[5])
  redis.call('HSET', S, 'o', to, 't', text, 's', string.format('%.0f', now), 'm', about)
  redis.call('PEXPIRE', S, lease)
  if head then
    redis.call('ZREM', Q, to)
    redis.call('HDEL', W, to)
  end
  return {1, fence, again}
end
if not owner then
  local mine = not head or head == me
  if mine or patience > 0 and us - redis.call('ZSCORE', Q, head) < patience * 1000 then
    return give(me, ARGV[4], ARGV[2])
  end
end
if alive > 0 then
  if not redis.call('ZSCORE', Q, me) then
    local tail = redis.call('ZRANGE', Q, -1, -1, 'WITHSCORES')
    redis.call('ZADD', Q, string.format('%.0f', math.max(us, tonumber(tail[2] or '0') + 1)), me)
  end
  redis.call('HSET', W, me, string.format('%.0f', now + alive) .. ' ' .. ARGV[4])
  -- Longer than any waiter counts as alive: the queue cannot vanish under a living one.
  if redis.call('PTTL', Q) < alive then redis.call('PEXPIRE', Q, alive * 2) end
  if redis.call('PTTL', W) < alive then redis.call('PEXPIRE', W, alive * 2) end
end
if not owner then
  local sharded = string.byte(ARGV[7]) == 123
  local waiter, about, alive_ms = look(0)
  local first, told, passed, deaf = waiter, about, {}, {}
  while waiter and waiter ~= me do
    local process = string.sub(waiter, 1, 12)
    if not deaf[process] then
      local heard = redis.pcall('PUBSUB', sharded and 'SHARDNUMSUB' or 'NUMSUB', ARGV[7] .. process)
      if heard[2] ~= 0 then break end
      deaf[process] = true
    end
    passed[#passed + 1] = {waiter, string.format('%.0f', math.min(alive_ms, now + claim)) .. ' ' .. about}
    waiter, about, alive_ms = look(#passed)
  end
  if waiter then
    -- Who was passed over keeps its place for as long as it would have had to take the lock up.
    for _, each in ipairs(passed) do redis.call('HSET', W, each[1], each[2]) end
  else
    waiter, about = first, told
  end
  if waiter == me then return give(me, ARGV[4], ARGV[2]) end
  give(waiter, about, claim)
  local word = waiter .. ' ' .. text .. ' ' .. string.format('%.0f', us) .. ' ' .. ARGV[6]
  redis.pcall(sharded and 'SPUBLISH' or 'PUBLISH', ARGV[7] .. string.sub(waiter, 1, 12), word)
end
local rank = alive > 0 and redis.call('ZRANK', Q, me) or -1
return {0, redis.call('PTTL', S), rank, us, last, again}

-- What share and unshare have in common: how many permits are taken, and who is served next.
-- Before: S, H, P, Q, W, F, me; claim, ms; fence_ttl, ms; prefix, of the channels on which waiters listen.
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local used, mine
local function whole(number) return string.format('%.0f', number) end
local function keep(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end

local function total()
  local sum = 0
  for _, said in ipairs(redis.call('HVALS', P)) do sum = sum + tonumber(string.match(said, '^%d+')) end
  return sum
end

local function count()
  local unknown = false
  used = tonumber(redis.call('HGET', S, 'u')) or total()
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', H, '-inf', now, 'LIMIT', 0, 1000)) do
    local said = redis.call('HGET', P, owner)
    if said then used = used - tonumber(string.match(said, '^%d+')) else unknown = true end
    redis.call('ZREM', H, owner)
    redis.call('HDEL', P, owner)
  end
  if redis.call('EXISTS', H) == 0 then
    -- The key goes with its last lease, before anybody can count what that gave back.
    used = 0
    redis.call('DEL', P)
  elseif unknown and redis.call('ZCARD', H) == redis.call('HLEN', P) then
    -- What somebody held was evicted; of all who are left it is known.
    used = total()
  end
end

local function give(to, permits, about, term)
  -- Hybrid clock: rises with every holder even if this key was lost, evicted or not replicated.
  local fence = math.max(us, tonumber(redis.call('GET', F) or '0') + 1)
  redis.call('SET', F, whole(fence), 'PX', fence_ttl)
  redis.call('ZADD', H, whole(now + term), to)
  redis.call('HSET', P, to, permits .. ' ' .. whole(fence) .. ' ' .. whole(now) .. ' ' .. about)
  keep(H, term)
  keep(P, term)
  used = used + permits
  return fence
end

local function serve(limit, lease, deaf)
  -- Whoever is first in the queue and fits; `deaf` says of processes whether they cannot hear, where that is known.
  local sharded = string.byte(prefix) == 123
  local passed, overtaken = {}, 0
  local waiter = redis.call('ZRANGE', Q, 0, 0)[1]
  while waiter do
    local home = string.sub(waiter, 1, 12)
    local alive_ms, permits, about = string.match(redis.call('HGET', W, waiter) or '0 0 ', '^(%d+) (%d+) (.*)$')
    if tonumber(alive_ms) <= now then
      redis.call('ZREM', Q, waiter)
      redis.call('HDEL', W, waiter)
    else
      if deaf[home] == nil then
        deaf[home] = redis.pcall('PUBSUB', sharded and 'SHARDNUMSUB' or 'NUMSUB', prefix .. home)[2] == 0
      end
      if deaf[home] then
        passed[#passed + 1] = {waiter, permits, about, alive_ms}
      else
        if used + permits > limit then break end
        redis.call('ZREM', Q, waiter)
        redis.call('HDEL', W, waiter)
        if waiter == me then
          mine = give(me, permits, about, lease)
        else
          local word = waiter .. ' ' .. whole(give(waiter, permits, about, claim)) .. ' ' .. whole(us) .. ' ' .. claim
          redis.pcall(sharded and 'SPUBLISH' or 'PUBLISH', prefix .. home, word)
        end
        overtaken = #passed
      end
    end
    waiter = redis.call('ZRANGE', Q, #passed, #passed)[1]
  end
  for place, each in ipairs(passed) do
    if place <= overtaken or used + each[2] <= limit then
      -- Its turn came: it keeps its place for as long as it would have had to take up what it was handed.
      redis.call('HSET', W, each[1], whole(math.min(each[4], now + claim)) .. ' ' .. each[2] .. ' ' .. each[3])
    end
  end
end

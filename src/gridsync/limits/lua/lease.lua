#!lua
-- lease: take a batch of permits from several sliding windows at once, to be used within ttl from now.
-- KEYS[1] log zset: <cumulative cost><mark><hits> -> when it counts as admitted, us since 2025-01-01
-- ARGV[1] lease string: ten characters: L, four that name the client, five that no other lease of its has these minutes
-- ARGV[2] repeat_us integer, us
-- ARGV[3] least integer, units: what is needed now
-- ARGV[4] most integer, units: what would be welcome
-- ARGV[5] ttl integer, us: how long the permits may be used
-- ARGV[6] tick integer, us: hits of one such stretch share an entry; 0 if each has its own
-- ARGV[7] longest integer, us: the longest of the windows
-- ARGV[8..] rules integer, units and us: limit and window of each rule in turn
-- Returns {granted (0 if the least does not fit now), remaining, reset_us, rule}: the rule that binds, counted from 0
-- Category idempotent
-- Cost O(r log n) for r rules and the n entries that the longest window holds, and a look at 128 entries of the future

-- hit_one.lua says why things are done as they are.  A permit may be used at any moment until now + ttl, so the batch
-- counts as admitted then: in the future.
local RING = 4503599627370496
local key, lease = KEYS[1], ARGV[1]
local least, most, ttl = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local tick, longest = tonumber(ARGV[6]), tonumber(ARGV[7])
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]

local newest = redis.call('ZREVRANGE', key, '0', '0', 'WITHSCORES')
local last, total, mark, waits = -longest, 0, ':', false
if newest[1] then
  last = tonumber(newest[2])
  waits = string.find(newest[1], '^%d+.R') ~= nil
  if last - now > longest and not (waits and last - now <= longest + 3600000000) then
    if string.find(newest[1], '+', 1, true) then
      redis.call('ZADD', key, 'LT', now - 1, redis.call('ZRANGE', key, 0, 0)[1])
    end
    redis.call('ZREMRANGEBYSCORE', key, now, string.format('(%.0f', last))
    redis.call('ZADD', key, now, newest[1])
    last = now
  end
end
local queued = waits and last >= now
local idle = last <= now - longest
if newest[1] and not idle then total, mark = string.match(newest[1], '^(%d+)(.)') end
total = tonumber(total)

local function cost_of(older, newer)
  if not older and mark == '+' then return 0 end -- the head of a log that was trimmed: nobody knows
  return (string.match(newer, '^%d+') - (older and string.match(older, '^%d+') or 0)) % RING
end
local granted = 0
if ARGV[2] ~= '0' then
  -- The first attempt's entry lies in the future, or not far in the past: the newest ones are enough.
  local log = redis.call('ZREVRANGE', key, '0', '1024')
  for i = 1, #log do
    if string.sub(log[i], -10) == lease then granted = cost_of(log[i + 1], log[i]) end
  end
end

-- Everything newer than now - window counts, what lies in the future too.
local base, room, reset, binds = nil, math.huge, 0, 0
for rule = 0, (#ARGV - 7) / 2 - 1 do
  local limit, window = tonumber(ARGV[8 + 2 * rule]), tonumber(ARGV[9 + 2 * rule])
  local used = 0
  if last > now - window then
    local expired = redis.call('ZREVRANGEBYSCORE', key, now - window, '-inf', 'LIMIT', '0', '1')[1]
    if window == longest then base = expired end
    used = total
    if expired or mark == '+' then used = cost_of(expired or redis.call('ZRANGE', key, '0', '0')[1], newest[1]) end
  end
  if limit - used < room then room, reset, binds = limit - used, math.max(0, last + window - now), rule end
end
if granted > 0 then return {granted, queued and 0 or math.max(0, room), reset, binds} end
if queued or room < least then return {0, queued and 0 or math.max(0, room), reset, binds} end

-- Half of what is left, shared with the clients that hold permits now: nobody takes all.
local clients, known = 1, {[string.sub(lease, 2, 5)] = true}
local ahead = redis.call('ZREVRANGEBYSCORE', key, '+inf', string.format('(%.0f', now), 'LIMIT', 0, 128)
for _, member in ipairs(ahead) do
  local client = string.match(member, '^%d+.L(....)')
  if client and not known[client] then clients, known[client] = clients + 1, true end
end
granted = math.max(least, math.min(most, math.floor(room / (2 * clients))))

if idle then
  if newest[1] then redis.call('UNLINK', key) end
elseif base then
  local rank = redis.call('ZRANK', key, base)
  if rank > 0 then
    redis.call('ZREMRANGEBYRANK', key, '0', math.min(rank, 64) - 1)
    mark = '+'
  end
end
if tick > 0 and not idle then
  local edge = now
-- include parts/thin.lua
end
total = total + granted
if total >= RING then total, mark = total - RING, '+' end
local at = math.max(now + ttl, last + 1)
redis.call('ZADD', key, at, string.format('%.0f', total) .. mark .. lease)
local life = at + longest - now
if redis.call('PTTL', key) * 1000 < life then
  redis.call('PEXPIRE', key, math.ceil((life + longest / 4) / 1000))
end
return {granted, room - granted, at + tonumber(ARGV[9 + 2 * binds]) - now, binds}

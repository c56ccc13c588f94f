#!lua
-- hit_one: take cost from one sliding window now, or say when it will fit.  The lean twin of hit.lua.
-- KEYS[1] log zset: <cumulative cost><mark><hits> -> when they were admitted, us since 2025-01-01
-- ARGV[1] hit string: five or ten characters that no other hit of these minutes has
-- ARGV[2] repeat_us integer, us
-- ARGV[3] cost integer, units
-- ARGV[4] limit integer, units
-- ARGV[5] window integer, us
-- ARGV[6] tick integer, us: hits of one such stretch share an entry; 0 if each has its own
-- Returns {retry_us (0 admitted, -1 never), remaining, reset_us, rule (always 0)}
-- Category idempotent
-- Cost O(log n) in the entries that the window holds; a repeat reads at most 20,000 of them

local RING = 4503599627370496 -- 2^52: cumulative costs count modulo this, so that they stay exact for ever
local key, hit = KEYS[1], ARGV[1]
local cost, limit, window, tick = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]

-- Numbers that are known stand as text: the server formats every number that it is given, half a microsecond each.
-- The newest entry tells when (last) and what (total) was admitted in all.  The newest expired one is the base:
-- the difference is what the window holds, whatever lies between.
local newest = redis.call('ZREVRANGE', key, '0', '0', 'WITHSCORES')
local last, total, mark, used, base, counted, alone = -window, 0, ':', 0, nil, nil, nil
if newest[1] then
  last = tonumber(newest[2])
  counted, mark, alone = string.match(newest[1], '(%d+)(.)(%u?)')
  if last - now > window and (alone ~= 'R' or last - now > window + 3600000000) then
    -- The server's clock was set back by more than a window.  Count what lies in the future as admitted now.
    -- Of a log that was trimmed counts what came after its head.
    if mark == '+' then redis.call('ZADD', key, 'LT', now - 1, redis.call('ZRANGE', key, 0, 0)[1]) end
    redis.call('ZREMRANGEBYSCORE', key, now, string.format('(%.0f', last))
    redis.call('ZADD', key, now, newest[1])
    last = now
  end
end
local at = math.max(now, last + 1) -- no two entries share a microsecond, and the log's time never runs back
local queued = last >= now and alone == 'R' -- a reservation is yet to come: no overtaking
-- Behind permits that are leased, entries lie in the future though what they count may happen now: then the window that
-- ends now is judged, and all that lies ahead of it counts, too.
local ahead = last >= now and (alone == 'L' or alone == 'A')
local judged = ahead and now or at
local idle = last <= at - window
if idle then
  mark = ':'
else
  total = tonumber(counted)
  base = redis.call('ZREVRANGEBYSCORE', key, judged - window, '-inf', 'LIMIT', '0', '1')[1]
  if base then
    used = total - string.match(base, '%d+')
  elseif mark == ':' then -- nothing was ever trimmed: the log counts from 0
    used = total
  else -- trimmed under a shorter window: what is left counts
    used = total - string.match(redis.call('ZRANGE', key, '0', '0')[1], '%d+')
  end
  if used < 0 then used = used + RING end
end

if ARGV[2] ~= '0' then
  -- The first attempt was admitted after it left, unless this repeat was held up on its way: then look further back, by
  -- more than a call may last.
  local function known(command, from, to)
    for _, member in ipairs(redis.call(command, key, from, to, 'LIMIT', 0, 10000)) do
      if string.find(string.match(member, '%d+(.*)'), hit, 1, true) then return true end
    end
  end
  local since = now - tonumber(ARGV[2]) - 100000
  if known('ZRANGEBYSCORE', since, '+inf')
    or known('ZREVRANGEBYSCORE', string.format('(%.0f', since), since - 5000000) then
    return {0, queued and 0 or math.max(0, limit - used), math.max(0, last + window - now), 0}
  end
end

if queued or used + cost > limit then
  local reset, left = math.max(0, last + window - now), queued and 0 or math.max(0, limit - used)
  if cost > limit then return {-1, left, reset, 0} end
  if used + cost <= limit then return {at - now, left, reset, 0} end
  -- It fits once everything up to some entry has expired and at most `room` was admitted after that entry: find the
  -- oldest such entry, counted from the newest (0).  The first guess is exact if every entry cost the same as this hit,
  -- the second if they cost the same as each other; halving every other time keeps the rest logarithmic.
  local room = limit - cost
  local fits, within, fails, beyond = 0, 0, room + 1, room + 1
  if tick > 0 then fails, beyond = redis.call('ZCARD', key), used end
  local guess, found, halve = math.floor(tick > 0 and fails * room / used or room / cost), last, true
  while fails - fits > 1 do
    local pair = redis.call('ZREVRANGE', key, guess, guess + 1, 'WITHSCORES')
    if not pair[1] then
      fails, beyond = redis.call('ZCARD', key), used
    else
      local newer, older = (total - string.match(pair[1], '%d+')) % RING, RING
      if pair[3] then older = (total - string.match(pair[3], '%d+')) % RING end
      if newer > room then
        fails, beyond = guess, newer
      elseif older > room then
        found = tonumber(pair[2])
        break
      else
        fits, within, found = guess + 1, older, tonumber(pair[4])
      end
    end
    halve = not halve
    local share = halve and 0.5 or (room - within) / (beyond - within)
    guess = fits + math.floor((fails - fits) * share)
  end
  return {found + window - now, left, reset, 0}
end

total = total + cost
if total >= RING then total, mark = total - RING, '+' end
local shared = tick > 0 and not idle and alone == '' and at - at % tick <= last
  and string.format('%.0f', total) .. mark .. string.sub(newest[1], #counted + 2) .. hit
if shared and #shared <= 64 then -- more would cost a sorted set its compact form
  redis.call('ZADD', key, at, shared)
  redis.call('ZREM', key, newest[1]) -- in this order: a log that is empty for a moment would lose its TTL
else
  if idle then
    if newest[1] then redis.call('UNLINK', key) end
  elseif base and (tick > 0 or total % 4 < cost) then
    local rank = redis.call('ZRANK', key, base)
    if rank > 0 then
      redis.call('ZREMRANGEBYRANK', key, '0', math.min(rank, 64) - 1)
      mark = '+'
    end
  end
  if tick > 0 and not idle then
    local edge = judged
-- include parts/thin.lua
  end
  redis.call('ZADD', key, at, string.format('%.0f', total) .. mark .. (ahead and 'A' or '') .. hit)
end
local life = at + window - now
if redis.call('PTTL', key) * 1000 < life then
  redis.call('PEXPIRE', key, math.ceil((life + window / 4) / 1000))
end
return {0, limit - used - cost, life, 0}

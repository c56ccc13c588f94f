#!lua flags=no-writes
-- peek: say what hit.lua would answer now, and take nothing.
-- KEYS[1] log zset: <cumulative cost><mark><hits> -> when they were admitted, us since 2025-01-01
-- ARGV[1] cost integer, units
-- ARGV[2] longest integer, us: the longest of the windows
-- ARGV[3..] rules integer, units and us: limit and window of each rule in turn
-- Returns {retry_us (0 would be admitted, -1 never), remaining, reset_us, rule}: the rule that binds, counted from 0
-- Category read
-- Cost O(r log n) for r rules and the n entries that the longest window holds

-- The first half of hit.lua; hit_one.lua says why things are done as they are.
local RING = 4503599627370496
local key = KEYS[1]
local cost, longest = tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]

local newest = redis.call('ZREVRANGE', key, '0', '0', 'WITHSCORES')
local last, total, mark, ahead, alone = -longest, 0, ':', math.huge, nil
if newest[1] then
  last = tonumber(newest[2])
  total, mark, alone = string.match(newest[1], '(%d+)(.)(%u?)')
  total = tonumber(total)
  -- A clock that was set back: hits would move the future's entries to now.
  if last - now > longest and (alone ~= 'R' or last - now > longest + 3600000000) then
    last, ahead = now, now
  end
end
local at = math.max(now, last + 1)
local queued = last >= now and alone == 'R'
local judged = last >= now and (alone == 'L' or alone == 'A') and now or at

local function used_within(window)
  if last <= at - window then return 0 end
  local expired = redis.call('ZREVRANGEBYSCORE', key, judged - window, '-inf', 'LIMIT', '0', '1')[1]
  if not expired and mark == ':' then return total end
  expired = expired or redis.call('ZRANGE', key, '0', '0')[1]
  return (total - string.match(expired, '%d+')) % RING
end

local function found_with(room, used)
  local fits, within, fails, beyond = 0, 0, room + 1, room + 1
  local guess, found, halve = math.floor(room / cost), last, true
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
        return math.min(ahead, tonumber(pair[2]))
      else
        fits, within, found = guess + 1, older, math.min(ahead, tonumber(pair[4]))
      end
    end
    halve = not halve
    local share = halve and 0.5 or (room - within) / (beyond - within)
    guess = fits + math.floor((fails - fits) * share)
  end
  return found
end

local admitted, denied
for rule = 0, (#ARGV - 2) / 2 - 1 do
  local limit, window = tonumber(ARGV[3 + 2 * rule]), tonumber(ARGV[4 + 2 * rule])
  local used = used_within(window)
  local reset = math.max(0, last + window - now)
  if queued or used + cost > limit then
    local retry = math.huge
    if used + cost <= limit then retry = at - now
    elseif cost <= limit then retry = found_with(limit - cost, used) + window - now end
    if not denied or retry > denied[1] then
      denied = {retry, queued and 0 or math.max(0, limit - used), reset, rule}
    end
  elseif not admitted or limit - used < admitted[2] then
    admitted = {0, limit - used, reset, rule}
  end
end
if denied and denied[1] == math.huge then denied[1] = -1 end
return denied or admitted

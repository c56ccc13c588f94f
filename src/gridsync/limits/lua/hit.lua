#!lua
-- hit: take cost from several sliding windows at once, all or none, now or soon, or say when it will fit.
-- KEYS[1] log zset: <cumulative cost><mark><hit> -> when it was or will be admitted, us since 2025-01-01
-- ARGV[1] hit string: ten characters that no other hit of these minutes has; the first is R if it may wait
-- ARGV[2] repeat_us integer, us
-- ARGV[3] cost integer, units
-- ARGV[4] longest integer, us: the longest of the windows
-- ARGV[5] max_wait integer, us: 0 unless the first character of the hit is R
-- ARGV[6..] rules integer, units and us: limit and window of each rule in turn
-- Returns {retry_us (0 admitted, -1 never), remaining, reset_us, rule}: the rule that binds, counted from 0; and after
-- these, if it is admitted later than now, in how many us
-- Category idempotent
-- Cost O(r log n) for r rules and the n hits that the longest window holds; a repeat reads at most 20,000 of them

-- hit_one.lua is this script for one rule and says why things are done as they are.
local RING = 4503599627370496
local key, hit = KEYS[1], ARGV[1]
local cost, longest, max_wait = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]

local newest = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
local last, total, mark = -longest, 0, ':'
if newest[1] then
  last = tonumber(newest[2])
  -- A reservation may lie in the future by as long as it may wait, an hour at most.
  if last - now > longest and (string.byte(newest[1], -10) ~= 82 or last - now > longest + 3600000000) then
    redis.call('ZREMRANGEBYSCORE', key, now, string.format('(%.0f', last))
    redis.call('ZADD', key, now, newest[1])
    last = now
  end
end
local at = math.max(now, last + 1)
local queued = last >= now and string.byte(newest[1], -10) == 82 -- a reservation is yet to come: no overtaking
local idle = last <= at - longest
if newest[1] and not idle then
  total, mark = tonumber(string.sub(newest[1], 1, -12)), string.sub(newest[1], -11, -11)
end

-- What each rule's window holds; `base` is left as the newest entry that the longest window has let go.
local base
local function used_within(window)
  if last <= at - window then return 0 end
  local expired = redis.call('ZREVRANGEBYSCORE', key, at - window, '-inf', 'LIMIT', 0, 1)[1]
  if window == longest then base = expired end
  if not expired and mark == ':' then return total end
  expired = expired or redis.call('ZRANGE', key, 0, 0)[1]
  return (total - tonumber(string.sub(expired, 1, -12))) % RING
end

-- When the oldest entry was admitted after which at most `room` was admitted.
local function found_with(room, used)
  local fits, within, fails, beyond = 0, 0, room + 1, room + 1
  local guess, found, halve = math.floor(room / cost), last, true
  while fails - fits > 1 do
    local pair = redis.call('ZREVRANGE', key, guess, guess + 1, 'WITHSCORES')
    if not pair[1] then
      fails, beyond = redis.call('ZCARD', key), used
    else
      local newer, older = (total - tonumber(string.sub(pair[1], 1, -12))) % RING, RING
      if pair[3] then older = (total - tonumber(string.sub(pair[3], 1, -12))) % RING end
      if newer > room then
        fails, beyond = guess, newer
      elseif older > room then
        return tonumber(pair[2])
      else
        fits, within, found = guess + 1, older, tonumber(pair[4])
      end
    end
    halve = not halve
    local share = halve and 0.5 or (room - within) / (beyond - within)
    guess = fits + math.floor((fails - fits) * share)
  end
  return found
end

local repeated
if ARGV[2] ~= '0' then
  local function known(command, from, to)
    for _, member in ipairs(redis.call(command, key, from, to, 'LIMIT', 0, 10000)) do
      if string.sub(member, -10) == hit then return member end
    end
  end
  local since = now - tonumber(ARGV[2]) - 100000
  repeated = known('ZRANGEBYSCORE', since, '+inf')
    or known('ZREVRANGEBYSCORE', string.format('(%.0f', since), since - 5000000)
end
local take = repeated and 0 or cost

-- Admitted: the rule binds that has least left.  Denied: the one that keeps us out longest.
local admitted, denied
for rule = 0, (#ARGV - 5) / 2 - 1 do
  local limit, window = tonumber(ARGV[6 + 2 * rule]), tonumber(ARGV[7 + 2 * rule])
  local used = used_within(window)
  local reset = math.max(0, last + window - now)
  if not repeated and (queued or used + cost > limit) then
    local retry = math.huge
    if used + cost <= limit then retry = at - now
    elseif cost <= limit then retry = found_with(limit - cost, used) + window - now end
    if not denied or retry > denied[1] then
      denied = {retry, queued and 0 or math.max(0, limit - used), reset, rule, window}
    end
  elseif not admitted or limit - used - take < admitted[2] then
    admitted = {0, limit - used - take, reset, rule, window}
  end
end
if repeated then
  local delay = tonumber(redis.call('ZSCORE', key, repeated)) - now
  admitted[2] = queued and 0 or math.max(0, admitted[2])
  return {0, admitted[2], admitted[3], admitted[4], max_wait > 0 and delay > 0 and delay or nil}
end
local delay
if denied then
  if denied[1] > max_wait then
    if denied[1] == math.huge then denied[1] = -1 end
    return {denied[1], denied[2], denied[3], denied[4]}
  end
  -- Admitted later: every rule has room then, and nobody comes between.  Only what has left the window by now is
  -- trimmed, since the reservation may be given back.
  delay, admitted = denied[1], {0, 0, 0, denied[4], denied[5]}
  at = now + delay
  base = redis.call('ZREVRANGEBYSCORE', key, now - longest, '-inf', 'LIMIT', 0, 1)[1]
end

if idle then
  if newest[1] then redis.call('UNLINK', key) end
elseif base and total % 16 + cost >= 16 then
  local rank = redis.call('ZRANK', key, base)
  if rank > 0 then
    redis.call('ZREMRANGEBYRANK', key, 0, math.min(rank, 64) - 1)
    mark = '+'
  end
end
total = total + cost
if total >= RING then total, mark = total - RING, '+' end
redis.call('ZADD', key, at, string.format('%.0f', total) .. mark .. hit)
local life = at + longest - now
if redis.call('PTTL', key) * 1000 < life then
  redis.call('PEXPIRE', key, math.ceil((life + longest / 4) / 1000))
end
return {0, admitted[2], at + admitted[5] - now, admitted[4], delay}

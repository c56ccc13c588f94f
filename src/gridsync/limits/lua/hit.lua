#!lua
-- hit: take cost from several sliding windows at once, all or none, now or soon, or say when it will fit.
-- KEYS[1] log zset: <cumulative cost><mark><hits> -> when they were or will be admitted, us since 2025-01-01
-- ARGV[1] hit string: five or ten characters that no other hit of these minutes has
-- ARGV[2] repeat_us integer, us
-- ARGV[3] cost integer, units
-- ARGV[4] longest integer, us: the longest of the windows
-- ARGV[5] max_wait integer, us: how long the hit may wait for its turn
-- ARGV[6] tick integer, us: hits of one such stretch share an entry; 0 if each has its own
-- ARGV[7..] rules integer, units and us: of each rule in turn its limit, its window, and the tick of entries that have
-- left that window, 0 if they are left alone
-- Returns {retry_us (0 admitted, -1 never), remaining, reset_us, rule}: the rule that binds, counted from 0; and after
-- these, if it is admitted later than now, in how many us
-- Category idempotent
-- Cost O(r log n) for r rules and the n entries that the longest window holds; a repeat reads at most 20,000 of them

-- hit_one.lua is this script for one rule and says why things are done as they are.
local RING = 4503599627370496
local key, hit = KEYS[1], ARGV[1]
local cost, longest, max_wait, tick = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]

local newest = redis.call('ZREVRANGE', key, '0', '0', 'WITHSCORES')
local last, total, mark, counted, alone = -longest, 0, ':', nil, nil
if newest[1] then
  last = tonumber(newest[2])
  counted, mark, alone = string.match(newest[1], '(%d+)(.)(%u?)')
  -- A reservation may lie in the future by as long as it may wait, an hour at most.
  if last - now > longest and (alone ~= 'R' or last - now > longest + 3600000000) then
    if mark == '+' then redis.call('ZADD', key, 'LT', now - 1, redis.call('ZRANGE', key, 0, 0)[1]) end
    redis.call('ZREMRANGEBYSCORE', key, now, string.format('(%.0f', last))
    redis.call('ZADD', key, now, newest[1])
    last = now
  end
end
local at = math.max(now, last + 1)
local queued = last >= now and alone == 'R' -- a reservation is yet to come: no overtaking
local ahead = last >= now and (alone == 'L' or alone == 'A')
local judged = ahead and now or at
local idle = last <= at - longest
if idle then mark = ':' else total = tonumber(counted) end

-- What each rule's window holds; `base` is left as the newest entry that the longest window has let go.
local base
local function used_within(window)
  if last <= at - window then return 0 end
  local expired = redis.call('ZREVRANGEBYSCORE', key, judged - window, '-inf', 'LIMIT', '0', '1')[1]
  if window == longest then base = expired end
  if not expired and mark == ':' then return total end
  expired = expired or redis.call('ZRANGE', key, '0', '0')[1]
  return (total - string.match(expired, '%d+')) % RING
end

-- When the oldest entry was admitted after which at most `room` was admitted.
local function found_with(room, used)
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

-- Merge what has become old.  Ticks become coarser with age: `ticks` are those of entries that have left a window.
local ticks = {}
local function merge(edge)
  if tick > 0 then
-- include parts/thin.lua
  end
  -- Of the entries that left a window since the newest entry began, the newest of each coarser tick stays.  With a
  -- queue ahead, nobody knows when the last hit was: then it is done for two ticks.
  for window, coarse in pairs(ticks) do
    local begun = tick > 0 and last - last % tick or last
    local since = string.format('(%.0f', (edge > last and begun or edge - 2 * coarse) - window)
    local left = redis.call('ZREVRANGEBYSCORE', key, edge - window, since, 'WITHSCORES', 'LIMIT', '0', '1')
    while left[1] do
      local begins = left[2] - left[2] % coarse
      local head = tonumber(redis.call('ZRANGE', key, '0', '0', 'WITHSCORES')[2])
      redis.call('ZREMRANGEBYSCORE', key, begins > head and begins or string.format('(%.0f', head), '(' .. left[2])
      left = redis.call('ZREVRANGEBYSCORE', key, string.format('(%.0f', begins), since, 'WITHSCORES', 'LIMIT', '0', '1')
    end
  end
end

local repeated
if ARGV[2] ~= '0' then
  local function known(command, from, to)
    for _, member in ipairs(redis.call(command, key, from, to, 'LIMIT', 0, 10000)) do
      if string.find(string.match(member, '%d+(.*)'), hit, 1, true) then return member end
    end
  end
  local since = now - tonumber(ARGV[2]) - 100000
  repeated = known('ZRANGEBYSCORE', since, '+inf')
    or known('ZREVRANGEBYSCORE', string.format('(%.0f', since), since - 5000000)
end
local take = repeated and 0 or cost

-- Admitted: the rule binds that has least left.  Denied: the one that keeps us out longest.
local admitted, denied
for rule = 0, (#ARGV - 6) / 3 - 1 do
  local limit, window = tonumber(ARGV[7 + 3 * rule]), tonumber(ARGV[8 + 3 * rule])
  local used = used_within(window)
  local reset = math.max(0, last + window - now)
  if ARGV[9 + 3 * rule] ~= '0' then ticks[window] = tonumber(ARGV[9 + 3 * rule]) end
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
  local delay = string.find(repeated, 'R' .. hit, 1, true) and redis.call('ZSCORE', key, repeated) - now or 0
  admitted[2] = queued and 0 or math.max(0, admitted[2])
  return {0, admitted[2], admitted[3], admitted[4], delay > 0 and delay or nil}
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
  at = math.max(now + delay, last + 1)
  base = redis.call('ZREVRANGEBYSCORE', key, now - longest, '-inf', 'LIMIT', '0', '1')[1]
end

total = total + cost
if total >= RING then total, mark = total - RING, '+' end
local shared = tick > 0 and not delay and not idle and alone == '' and at - at % tick <= last
  and string.format('%.0f', total) .. mark .. string.sub(newest[1], #counted + 2) .. hit
if shared and #shared <= 64 then
  redis.call('ZADD', key, at, shared)
  redis.call('ZREM', key, newest[1])
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
  if not idle then merge(delay and now or judged) end
  redis.call('ZADD', key, at, string.format('%.0f', total) .. mark .. (delay and 'R' or ahead and 'A' or '') .. hit)
end
local life = at + longest - now
if redis.call('PTTL', key) * 1000 < life then
  redis.call('PEXPIRE', key, math.ceil((life + longest / 4) / 1000))
end
return {0, admitted[2], at + admitted[5] - now, admitted[4], delay}

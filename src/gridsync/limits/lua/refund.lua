#!lua
-- refund: give a hit back, as if it had never been counted.
-- KEYS[1] log zset: <cumulative cost><mark><hit> -> when it was admitted, us since 2025-01-01
-- ARGV[1] hit string: its ten characters
-- ARGV[2] repeat_us integer, us
-- ARGV[3] cost integer, units: what it took
-- ARGV[4] longest integer, us: the longest of the windows
-- Returns 1 if it was given back, by a repeat's first attempt perhaps, or 0 if it is not counted any more
-- Category idempotent
-- Cost O(m log n) for the m hits that came after it, at most 1,023, of the n in the log

local RING = 4503599627370496
local key, hit, cost = KEYS[1], ARGV[1], tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]

-- Most are given back soon: look through the newest ones, in strides of 16, 48, 192 and 768.
local given, at, later, from = nil, nil, {}, 0
while not given and from < 1024 do
  local to = math.max(16, 4 * from) - 1
  local log = redis.call('ZREVRANGE', key, from, to, 'WITHSCORES')
  for i = 1, #log, 2 do
    if string.sub(log[i], -10) == hit then
      given, at = log[i], tonumber(log[i + 1])
      break
    end
    later[#later + 1] = {log[i], log[i + 1]}
  end
  if #log < 2 * (to + 1 - from) then break end
  from = to + 1
end
if not given then return ARGV[2] ~= '0' and 1 or 0 end

-- What has left every window is not counted, and neither is the head of a log that was trimmed.
local mark = string.sub(later[1] and later[1][1] or given, -11, -11)
if at <= now - tonumber(ARGV[4]) then return 0 end
if mark == '+' and redis.call('ZRANGE', key, 0, 0)[1] == given then return 0 end

local function rewrite(entry, less, its_mark)
  local total = (tonumber(string.sub(entry[1], 1, -12)) - less) % RING
  redis.call('ZADD', key, entry[2], string.format('%.0f', total) .. its_mark .. string.sub(entry[1], -10))
  redis.call('ZREM', key, entry[1]) -- in this order: a log that is empty for a moment would lose its TTL
end
for i = #later, 1, -1 do -- the oldest first: a hit that was counted twice must not become one entry
  rewrite(later[i], cost, string.sub(later[i][1], -11, -11))
end
redis.call('ZREM', key, given)
if not later[1] then
  -- The newest entry says whether the log was trimmed.
  local newest = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
  if newest[1] and string.sub(newest[1], -11, -11) ~= mark then rewrite(newest, 0, mark) end
end
return 1

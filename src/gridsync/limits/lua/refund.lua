#!lua
-- refund: give a hit back, as if it had never been counted.
-- KEYS[1] log zset: <cumulative cost><mark><hits> -> when they were admitted, us since 2025-01-01
-- ARGV[1] hit string: its five or ten characters
-- ARGV[2] repeat_us integer, us
-- ARGV[3] cost integer, units: what it took
-- ARGV[4] longest integer, us: the longest of the windows
-- Returns 1 if it was given back, by a repeat's first attempt perhaps, or 0 if it is not counted any more
-- Category idempotent
-- Cost O(m log n) for the m entries that came after it, at most 1,023, of the n in the log

local RING = 4503599627370496
local key, hit, cost = KEYS[1], ARGV[1], tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]

-- Most are given back soon: look through the newest ones, in strides of 16, 48, 192 and 768.
local given, at, place, later, from = nil, nil, nil, {}, 0
while not given and from < 1024 do
  local to = math.max(16, 4 * from) - 1
  local log = redis.call('ZREVRANGE', key, from, to, 'WITHSCORES')
  for i = 1, #log, 2 do
    if string.find(string.match(log[i], '%d+(.*)'), hit, 1, true) then
      given, at, place = log[i], log[i + 1], from + (i + 1) / 2
      break
    end
    later[#later + 1] = {log[i], log[i + 1]}
  end
  if #log < 2 * (to + 1 - from) then break end
  from = to + 1
end
if not given then return ARGV[2] ~= '0' and 1 or 0 end

-- What has left every window is not counted, and neither is the head of a log that was trimmed.
local older = redis.call('ZREVRANGE', key, place, place)[1]
local mark = string.match(later[1] and later[1][1] or given, '%d+(.)')
if tonumber(at) <= now - tonumber(ARGV[4]) or (mark == '+' and not older) then return 0 end
local width = (string.match(given, '%d+') - (older and string.match(older, '%d+') or 0)) % RING
if width < cost then return 0 end

local function rewrite(member, score, less, its_mark, hits)
  local total = (string.match(member, '%d+') - less) % RING
  redis.call('ZADD', key, score, string.format('%.0f', total) .. its_mark .. hits)
  redis.call('ZREM', key, member) -- in this order: a log that is empty for a moment would lose its TTL
end
for i = #later, 1, -1 do -- the oldest first: a hit that was counted twice must not become one entry
  rewrite(later[i][1], later[i][2], cost, string.match(later[i][1], '%d+(.?)(.*)'))
end
if width > cost then -- others share the entry
  local its_mark, hits = string.match(given, '%d+(.)(.*)')
  local first, final = string.find(hits, hit, 1, true)
  rewrite(given, at, cost, its_mark, string.sub(hits, 1, first - 1) .. string.sub(hits, final + 1))
  return 1
end
redis.call('ZREM', key, given)
if not later[1] and older then
  -- The newest entry says whether the log was trimmed.
  local its_mark, hits = string.match(older, '%d+(.?)(.*)')
  if its_mark ~= mark then rewrite(older, redis.call('ZSCORE', key, older), 0, mark, hits) end
end
return 1

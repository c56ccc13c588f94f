#!lua
-- give_back: return what is unused of a lease, as if it had never been taken.
-- KEYS[1] log zset: <cumulative cost><mark><hits> -> when it counts as admitted, us since 2025-01-01
-- ARGV[1] lease string: its ten characters, L first
-- ARGV[2] used integer, units: what was used of it
-- ARGV[3] granted integer, units: what it took, 0 if nobody heard
-- ARGV[4] longest integer, us: the longest of the windows
-- Returns how many units were given back: 0 if they were before, or are not counted any more
-- Category idempotent
-- Cost O(m log n) for the m entries that came after it, at most 1,023, of the n in the log

local RING = 4503599627370496
local key, used, granted = KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]

-- What was given back has a small l, so that a repeat does not find it.
local given, at, later, older, from = nil, nil, {}, nil, 0
while not given and from < 1024 do
  local to = math.max(16, 4 * from) - 1
  local log = redis.call('ZREVRANGE', key, from, to + 1, 'WITHSCORES')
  for i = 1, math.min(#log, 2 * (to + 1 - from)), 2 do
    if string.sub(log[i], -10) == ARGV[1] then
      given, at, older = log[i], tonumber(log[i + 1]), {log[i + 2], tonumber(log[i + 3])}
      break
    end
    later[#later + 1] = {log[i], log[i + 1]}
  end
  if #log < 2 * (to + 2 - from) then break end
  from = to + 1
end
if not given or at <= now - tonumber(ARGV[4]) then return 0 end

local mark = string.match(later[1] and later[1][1] or given, '^%d+(.)')
if not older[1] and mark == '+' then return 0 end -- the head of a log that was trimmed: nobody knows what it cost
local width = (string.match(given, '^%d+') - (older[1] and string.match(older[1], '^%d+') or 0)) % RING
-- Once its time has come, older entries may have been merged into it: what they cost is not given back.
if granted == 0 and at > now then granted = width end
local unused = granted - used
if unused < 0 or width < granted then return 0 end

local function rewrite(member, score, less, its_mark, hits)
  local total = (string.match(member, '^%d+') - less) % RING
  redis.call('ZADD', key, score, string.format('%.0f', total) .. its_mark .. hits)
  redis.call('ZREM', key, member) -- in this order: a log that is empty for a moment would lose its TTL
end
for i = unused > 0 and #later or 0, 1, -1 do
  rewrite(later[i][1], later[i][2], unused, string.match(later[i][1], '^%d+(.?)(.*)$'))
end
if unused == width then -- an entry that costs nothing would lead a search for retry_us astray
  redis.call('ZREM', key, given)
  local its_mark, hits = string.match(older[1] or '', '^%d+(.?)(.*)$')
  if its_mark and not later[1] and its_mark ~= mark then rewrite(older[1], older[2], 0, mark, hits) end
  return unused
end
-- What was used was used until now, so it need not count as if it had been until the end; but entries keep their order.
-- Behind other leases it lies in the future still, and says so: whoever comes next must judge the window that ends now.
local when, its_mark = math.min(at, math.max(now, (older[2] or 0) + 1)), string.match(given, '^%d+(.)')
rewrite(given, when, unused, its_mark, (when > now and 'Al' or 'l') .. string.sub(ARGV[1], 2))
return unused

#!lua
-- give_back: return what is unused of a lease, as if it had never been taken.
-- KEYS[1] log zset: <cumulative cost><mark><hits> -> when it counts as admitted, us since 2025-01-01
-- ARGV[1] lease string: its ten characters, L first
-- ARGV[2] used integer, units: what was used of it
-- ARGV[3] longest integer, us: the longest of the windows
-- Returns how many units were given back: 0 if they were before, or are not counted any more
-- Category idempotent
-- Cost O(m log n) for the m entries that came after it, at most 1,023, of the n in the log

local RING = 4503599627370496
local key, used = KEYS[1], tonumber(ARGV[2])
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
if not given or at <= now - tonumber(ARGV[3]) then return 0 end

local mark = string.match(later[1] and later[1][1] or given, '^%d+(.)')
if not older[1] and mark == '+' then return 0 end -- the head of a log that was trimmed: nobody knows what it cost
local unused = (string.match(given, '^%d+') - (older[1] and string.match(older[1], '^%d+') or 0)) % RING - used
if unused < 0 then return 0 end

local function rewrite(entry, when, letter)
  local total, its_mark, hits = string.match(entry, '^(%d+)(.?)(.*)$')
  if letter then hits = letter .. string.sub(hits, 2) end
  redis.call('ZADD', key, when, string.format('%.0f', (total - unused) % RING) .. its_mark .. hits)
  redis.call('ZREM', key, entry) -- in this order: a log that is empty for a moment would lose its TTL
end
-- What was used was used until now, so it need not count as if it had been until the end; but entries keep their order.
rewrite(given, math.min(at, math.max(now, (older[2] or 0) + 1)), 'l')
for i = #later, 1, -1 do
  -- If nothing was unused there is nothing to lower, and a member that is written again must not be removed.
  if unused > 0 then rewrite(later[i][1], later[i][2]) end
end
return unused

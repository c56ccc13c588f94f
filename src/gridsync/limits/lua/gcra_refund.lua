#!lua
-- gcra_refund: give a hit back, as if it had never been: the others are poured again without it.
-- KEYS[1] bucket string: see parts/bucket.lua
-- ARGV[1] hit string: its ten characters
-- ARGV[2] repeat_us integer, us
-- ARGV[3] cost integer, units: what it took
-- ARGV[4] p integer, us: a unit comes back in p/q us
-- ARGV[5] q integer, parts
-- ARGV[6] burst integer, units
-- Returns 1 if it was given back, by a repeat's first attempt perhaps, or 0 if it is not counted any more
-- Category idempotent
-- Cost O(1): it looks through the sixteen newest hits

local key, hit = KEYS[1], ARGV[1]
local p, q, burst = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
-- include parts/bucket.lua

if now > full then return ARGV[2] ~= '0' and 1 or 0 end -- the bucket is full: all of it came back by itself
local others, a, b, newest, found = {}, base, base_part, 0, false
for entry, its, at, cost in string.gmatch(hits, '((%w+),(%d+),(%d+);)') do
  if its == hit and cost == ARGV[3] and not found then
    found = true
  else
    newest = tonumber(at)
    a, b = poured(a, b, newest, tonumber(cost))
    others[#others + 1] = entry
  end
end
if not found then return ARGV[2] ~= '0' and 1 or 0 end
if a < full or a == full and b < part then full, part = a, b end -- under another rule the others may weigh more
last, hits, count = newest, table.concat(others), #others
keep()
return 1

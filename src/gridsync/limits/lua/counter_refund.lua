#!lua
-- counter_refund: give a hit back, as if it had never been counted.
-- KEYS[1] counters string: see parts/counters.lua
-- ARGV[1] hit string: its ten characters
-- ARGV[2] repeat_us integer, us
-- ARGV[3] cost integer, units: what it took
-- ARGV[4] limit integer, units
-- ARGV[5] window integer, us
-- ARGV[6] weighted flag: 1 if the window before counts too, as far as it overlaps
-- Returns 1 if it was given back, by a repeat's first attempt perhaps, or 0 if it is not counted any more
-- Category idempotent
-- Cost O(1): it looks through the sixteen newest hits

local key, hit = KEYS[1], ARGV[1]
local limit, window, weighted = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'
-- include parts/counters.lua

local others, its_start, its_cost = {}, nil, 0
for entry, its, began, cost in string.gmatch(hits, '((%w+),(%d+),(%d+);)') do
  if its == hit and cost == ARGV[3] and not its_start then
    its_start, its_cost = tonumber(began), tonumber(cost)
  else
    others[#others + 1] = entry
  end
end
if its_start == start then
  used = used - its_cost
elseif its_start == start - window and before > 0 then
  before = before - its_cost
else -- its window is over, or it is not known any more
  return ARGV[2] ~= '0' and 1 or 0
end
hits, count = table.concat(others), #others
keep()
return 1

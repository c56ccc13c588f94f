#!lua
-- counter_hit: take cost from a window that began with its first hit, or say when it will fit.
-- KEYS[1] counters string: see parts/counters.lua
-- ARGV[1] hit string: ten characters that no other hit of these minutes has
-- ARGV[2] repeat_us integer, us
-- ARGV[3] cost integer, units
-- ARGV[4] limit integer, units
-- ARGV[5] window integer, us
-- ARGV[6] weighted flag: 1 if the window before counts too, as far as it overlaps
-- Returns {retry_us (0 admitted, -1 never), remaining, reset_us, rule (always 0)}
-- Category idempotent
-- Cost O(1)

local key, hit, cost = KEYS[1], ARGV[1], tonumber(ARGV[3])
local limit, window, weighted = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'
-- include parts/counters.lua

if ARGV[2] ~= '0' and string.find(';' .. hits, ';' .. hit .. ',', 1, true) then
  return {0, left(), until_empty(), 0}
end
local wait = retry(cost)
if wait ~= 0 then
  if stepped then keep() end -- else the next one would start from the old clock again
  return {wait, left(), until_empty(), 0}
end
if count == 16 then
  hits, count = string.sub(hits, string.find(hits, ';', 1, true) + 1), count - 1
end
used = used + cost
hits, count = hits .. hit .. ',' .. string.format('%.0f,%.0f;', start, cost), count + 1
keep()
return {0, left(), until_empty(), 0}

#!lua flags=no-writes
-- counter_peek: say what counter_hit would answer now, and take nothing.
-- KEYS[1] counters string: see parts/counters.lua
-- ARGV[1] cost integer, units
-- ARGV[2] limit integer, units
-- ARGV[3] window integer, us
-- ARGV[4] weighted flag: 1 if the window before counts too, as far as it overlaps
-- Returns {retry_us (0 would be admitted, -1 never), remaining, reset_us, rule (always 0)}
-- Category read
-- Cost O(1)

local key, cost = KEYS[1], tonumber(ARGV[1])
local limit, window, weighted = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
-- include parts/counters.lua

return {retry(cost), left(), until_empty(), 0}

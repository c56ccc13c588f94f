#!lua flags=no-writes
-- gcra_peek: say what gcra_hit would answer now, and take nothing.
-- KEYS[1] bucket string: see parts/bucket.lua
-- ARGV[1] cost integer, units
-- ARGV[2] p integer, us: a unit comes back in p/q us
-- ARGV[3] q integer, parts
-- ARGV[4] burst integer, units
-- Returns {retry_us (0 would be admitted, -1 never), remaining, reset_us, rule (always 0)}
-- Category read
-- Cost O(1)

local key, cost = KEYS[1], tonumber(ARGV[1])
local p, q, burst = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- include parts/bucket.lua

return {cost > burst and -1 or math.max(0, holds(cost) - now), left(), until_full(), 0}

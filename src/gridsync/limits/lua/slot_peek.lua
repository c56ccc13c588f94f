#!lua flags=no-writes
-- slot_peek: say what slot_hit would answer now, and take nothing.
-- KEYS[1] slots zset: <hit>:<number> -> until when it is taken, us since 2025-01-01
-- ARGV[1] cost integer, slots
-- ARGV[2] limit integer, slots
-- Returns {retry_us (0 would be taken, -1 never), remaining, reset_us, rule (always 0)}
-- Category read
-- Cost O(log n) for n taken slots

local key, cost, limit = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
-- include parts/slots.lua

return {retry(cost), math.max(0, limit - taken), until_free(), 0}

#!lua
-- slot_refund: give slots back before their time.
-- KEYS[1] slots zset: <hit>:<number> -> until when it is taken, us since 2025-01-01
-- ARGV[1] hit string: its ten characters
-- ARGV[2] repeat_us integer, us
-- ARGV[3] cost integer, slots: how many it took
-- Returns 1 if they were given back, by a repeat's first attempt perhaps, or 0 if they were free already
-- Category idempotent
-- Cost O(c log n) for a cost of c and n taken slots

local key, hit = KEYS[1], ARGV[1]
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]
local free_at = redis.call('ZSCORE', key, hit .. ':1')
for number = 1, math.min(tonumber(ARGV[3]), 10000) do redis.call('ZREM', key, hit .. ':' .. number) end
return (ARGV[2] ~= '0' or free_at and tonumber(free_at) > now) and 1 or 0

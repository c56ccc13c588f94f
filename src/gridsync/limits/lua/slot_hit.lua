#!lua
-- slot_hit: take free slots, or say when enough of them will be free at the latest.
-- KEYS[1] slots zset: <hit>:<number> -> until when it is taken, us since 2025-01-01
-- ARGV[1] hit string: ten characters that no other holder has
-- ARGV[2] repeat_us integer, us
-- ARGV[3] cost integer, slots
-- ARGV[4] limit integer, slots
-- ARGV[5] ttl integer, us: how long they are held at most
-- Returns {retry_us (0 taken, -1 never), remaining, reset_us, rule (always 0)}
-- Category idempotent
-- Cost O(c log n) for a cost of c and n taken slots

local key, hit, cost = KEYS[1], ARGV[1], tonumber(ARGV[3])
local limit, ttl = tonumber(ARGV[4]), tonumber(ARGV[5])
-- include parts/slots.lua

if ARGV[2] ~= '0' and redis.call('ZSCORE', key, hit .. ':1') then
  return {0, math.max(0, limit - taken), until_free(), 0}
end
local wait = retry(cost)
if wait ~= 0 then return {wait, math.max(0, limit - taken), until_free(), 0} end
redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
for number = 1, cost do redis.call('ZADD', key, now + ttl, hit .. ':' .. number) end
if redis.call('PTTL', key) * 1000 < ttl then redis.call('PEXPIRE', key, math.ceil(ttl / 1000)) end
return {0, limit - taken - cost, until_free(), 0}

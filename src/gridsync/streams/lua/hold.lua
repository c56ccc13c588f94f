#!lua flags=allow-oom
-- hold: keep a partition for longer, if it is still this owner's.
-- KEYS[1] lease hash
-- ARGV[1] owner string: the member, a dot and the generation
-- ARGV[2] ttl integer, ms
-- Returns 1 if it is still this owner's, else 0
-- Category idempotent
-- Cost O(1)
if redis.call('HGET', KEYS[1], 'o') ~= ARGV[1] then return 0 end
local clock = redis.call('TIME')
redis.call('HSET', KEYS[1], 't', clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[2])
return 1

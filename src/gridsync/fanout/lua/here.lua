#!lua
-- here: note that members are present on a channel, and forget some who are not any more.
-- KEYS[1] here zset: member -> until when it counts, server ms
-- KEYS[2] about hash: member -> what it tells about itself
-- ARGV[1] ttl integer, ms
-- ARGV[2..] member string, and after each what it tells about itself
-- Returns 1
-- Category idempotent
-- Cost O(members * log of all)
local H, A, ttl = KEYS[1], KEYS[2], tonumber(ARGV[1])
-- include parts/absent.lua
for k = 2, #ARGV, 2 do
  redis.call('ZADD', H, now_ms + ttl, ARGV[k])
  redis.call('HSET', A, ARGV[k], ARGV[k + 1])
end
redis.call('PEXPIRE', H, 2 * ttl)
redis.call('PEXPIRE', A, 2 * ttl)
return 1

#!lua flags=allow-oom
-- renew_share: let the lease on permits run for its full length again, if they are still ours.
-- KEYS[1] held zset: owner, by the server ms until which it holds
-- KEYS[2] what hash: owner, to "<permits> <fence> <since, server ms> <about it>"
-- ARGV[1] owner string
-- ARGV[2] lease integer, ms
-- Returns 1 renewed | 0 not held by this owner: it is lost for good
-- Category idempotent
-- Cost O(log holders)
local time = redis.call('TIME')
local now = math.floor((time[1] * 1000000 + time[2]) / 1000)
local until_ms = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not until_ms or tonumber(until_ms) <= now then return 0 end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
return 1

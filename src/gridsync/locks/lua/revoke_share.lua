#!lua flags=allow-oom
-- revoke_share: raise the fence above everybody's and tell one holder that its lease is lost; a release follows.
-- The raised fence belongs to nobody: every later holder's is larger.
-- KEYS[1] held zset: owner, by the server ms until which it holds
-- KEYS[2] fence string: the last fence given out
-- ARGV[1] owner string: whose lease it is; all others are left alone
-- ARGV[2] fence_ttl integer, ms
-- ARGV[3] channel string: where the owner's process listens
-- ARGV[4] message string: what it is told
-- Returns the raised fence | 0 not held by this owner
-- Category idempotent
-- Cost O(1)
local until_ms = redis.call('ZSCORE', KEYS[1], ARGV[1])
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
if not until_ms or tonumber(until_ms) <= math.floor(us / 1000) then return 0 end
local fence = math.max(us, tonumber(redis.call('GET', KEYS[2]) or '0') + 1)
redis.call('SET', KEYS[2], string.format('%.0f', fence), 'PX', ARGV[2])
redis.call(string.byte(ARGV[3]) == 123 and 'SPUBLISH' or 'PUBLISH', ARGV[3], ARGV[4])
return fence

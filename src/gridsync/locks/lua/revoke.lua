#!lua flags=allow-oom
-- revoke: raise the fence above the holder's and tell the holder that its lease is lost; a release follows.
-- The raised fence belongs to nobody: a resource that saw it refuses the holder, and admits every later one.
-- KEYS[1] state hash: o owner, t fence, s since when in server ms, m about the owner; lives as long as the lease
-- KEYS[2] fence string: the last fence given out
-- ARGV[1] owner string: whose lease it is; another's is left alone
-- ARGV[2] fence_ttl integer, ms
-- ARGV[3] channel string: where the owner's process listens
-- ARGV[4] message string: what it is told
-- Returns the raised fence | 0 not held by this owner
-- Category idempotent
-- Cost O(1)
if redis.call('HGET', KEYS[1], 'o') ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
local fence = math.max(time[1] * 1000000 + time[2], tonumber(redis.call('GET', KEYS[2]) or '0') + 1)
redis.call('SET', KEYS[2], string.format('%.0f', fence), 'PX', ARGV[2])
redis.call(string.byte(ARGV[3]) == 123 and 'SPUBLISH' or 'PUBLISH', ARGV[3], ARGV[4])
return fence

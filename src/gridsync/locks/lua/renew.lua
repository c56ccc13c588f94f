#!lua flags=allow-oom
-- renew: let the lease run for its full length again, if it is still ours.
-- KEYS[1] state hash: o owner, t fence, s since when in server ms, m about the owner; lives as long as the lease
-- ARGV[1] owner string
-- ARGV[2] lease integer, ms
-- Returns 1 renewed | 0 not held by this owner: it is lost for good
-- Category idempotent
-- Cost O(1)
if redis.call('HGET', KEYS[1], 'o') ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])

#!lua flags=allow-oom
-- hold: go on loading; the lease begins again.
-- KEYS[1] load hash: o who loads it, w<token> who waits for that; lives as long as the loader's lease
-- ARGV[1] token string
-- ARGV[2] lease integer, ms
-- Returns 1 | 0 it is no longer this caller's to load
-- Category idempotent
-- Cost O(1)
if redis.call('HGET', KEYS[1], 'o') ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])

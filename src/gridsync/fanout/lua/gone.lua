#!lua flags=allow-oom
-- gone: members are present no longer.
-- KEYS[1] here zset: member -> until when it counts, server ms
-- KEYS[2] about hash: member -> what it tells about itself
-- ARGV[1..] member string
-- Returns how many were
-- Category idempotent
-- Cost O(members * log of all)
redis.call('HDEL', KEYS[2], unpack(ARGV))
return redis.call('ZREM', KEYS[1], unpack(ARGV))

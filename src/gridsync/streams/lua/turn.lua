#!lua flags=allow-oom
-- turn: take the turn to keep a log small, if nobody has had it for a period; it ends by itself.
-- KEYS[1] turn string
-- ARGV[1] owner string: new for each turn
-- ARGV[2] period integer, ms
-- Returns -1 if it is this owner's, else for how many ms it is somebody else's
-- Category idempotent
-- Cost O(1)
if redis.call('GET', KEYS[1]) == ARGV[1] then return -1 end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return -1 end
-- A key that somebody else has left without an end is no turn.
local left = redis.call('PTTL', KEYS[1])
if left < 0 then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return left

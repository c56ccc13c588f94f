#!lua flags=allow-oom
-- cede: give a partition back, if it is still this member's; the generation stays, for the next one counts on.
-- KEYS[1] lease hash
-- ARGV[1] member string
-- ARGV[2] taken string: only what it has under this generation, or has taken by a request with this token
-- Returns 1 if it was given back, else 0
-- Category idempotent
-- Cost O(1)
local held = redis.call('HMGET', KEYS[1], 'm', 'g', 'a')
if held[1] ~= ARGV[1] or (held[2] ~= ARGV[2] and held[3] ~= ARGV[2]) then return 0 end
redis.call('HDEL', KEYS[1], 'm', 't', 's', 'o', 'p', 'a')
return 1

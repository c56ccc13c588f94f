#!lua
-- invalidate: give a tag another version, so that whatever was stored under it counts as missing.
-- KEYS[1] tag string: its version; what was stored under it ends with it
-- ARGV[1] token string
-- ARGV[2] life integer, ms
-- Returns 1
-- Category idempotent
-- Cost O(1)
local token = ARGV[1]
-- include parts/version.lua
redis.call('SET', KEYS[1], version(), 'PX', ARGV[2])
return 1

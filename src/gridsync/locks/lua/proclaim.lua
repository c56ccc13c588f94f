#!lua
-- proclaim: tell everybody who watches an election that something has changed.
-- KEYS[1] watchers zset: watcher, by the server ms until which it counts as alive
-- ARGV[1] wake_prefix string: a watcher listens on this plus the first 12 characters of its name
-- Returns how many were told
-- Category idempotent
-- Cost O(watchers)
local time = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', math.floor((time[1] * 1000000 + time[2]) / 1000))
local all = redis.call('ZRANGE', KEYS[1], 0, -1)
local command = string.byte(ARGV[1]) == 123 and 'SPUBLISH' or 'PUBLISH'
for _, watcher in ipairs(all) do redis.pcall(command, ARGV[1] .. string.sub(watcher, 1, 12), watcher) end
return #all

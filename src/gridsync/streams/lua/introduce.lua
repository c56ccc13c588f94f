#!lua
-- introduce: give a store a name by which its mirrors know it wherever it is served, and say which one it has.
-- KEYS[1] meta hash
-- ARGV[1] own string: a new name
-- Returns the name
-- Category idempotent
-- Cost O(1)
local place = redis.call('HGET', KEYS[1], 'pos')
if place and not tonumber(place) then return redis.error_reply('PARTITIONED this store is in several partitions') end
-- A store that has a name has begun, though it has no event.
if not place then redis.call('HSET', KEYS[1], 'pos', '0') end
redis.call('HSETNX', KEYS[1], 'site', ARGV[1])
return redis.call('HGET', KEYS[1], 'site')

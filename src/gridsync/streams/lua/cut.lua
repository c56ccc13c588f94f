#!lua
-- cut: take the events behind a version off a stream of a store that was superseded.
-- KEYS[1] meta hash
-- KEYS[2] versions hash
-- KEYS[3] stream stream
-- KEYS[4] temporary stream: the copy on its way
-- KEYS[5] erased hash
-- ARGV[1] name string
-- ARGV[2] kept integer, version: the last that stays, 0 for none
-- ARGV[3] step integer, events: the most to copy
-- Returns 1 done, 0 to be called again, -1 this store takes events or mirrors another one
-- Category idempotent
-- Cost O(step)
local meta, versions, stream, temporary = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, kept, step = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local ro = redis.call('HGET', meta, 'ro')
if ro ~= 'fenced' and ro ~= 'superseded' then return -1 end
-- include parts/cut.lua
if not cut(stream) then return 0 end
replace(stream)
local gone = tonumber(redis.call('HGET', KEYS[5], name) or 0)
if kept == 0 then redis.call('HDEL', versions, name) else redis.call('HSET', versions, name, kept .. '') end
if gone > 0 and kept == 0 then redis.call('HDEL', KEYS[5], name) end
if gone > kept and kept > 0 then redis.call('HSET', KEYS[5], name, kept .. '') end
return 1

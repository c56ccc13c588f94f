#!lua
-- note: say how far a reader has got, so that what it has not had stays in the log.
-- KEYS[1] readers hash
-- KEYS[2] meta hash
-- ARGV[1] name string
-- ARGV[2] kind string: reader or replicator
-- ARGV[3] lasts integer, ms: so long after this it holds nothing any more; 0 for ever
-- ARGV[4] checkpoint string
-- Returns the last position that was removed from the log
-- Category last-wins
-- Cost O(1)
local clock = redis.call('TIME')
local now = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
local trimmed = tonumber(redis.call('HGET', KEYS[2], 'trimmed') or 0)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. now .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
return trimmed

#!lua
-- confirm: write down the fence that a majority of masters leads to, while this one's vote still holds.
-- Whoever is granted next reads it here, or on another master of this majority, and goes beyond it.
-- KEYS[1] state hash: o owner, t fence, s since when in server ms, m about the owner; lives as long as the lease
-- KEYS[2] fence string: the last fence given out
-- ARGV[1] owner string
-- ARGV[2] fence integer, us
-- ARGV[3] fence_ttl integer, ms
-- Returns {1, uptime in s, run id}: it is written, by a server that has run for so long | {0}: the vote is gone
-- Category idempotent
-- Cost O(1), and what INFO costs
local S, F = KEYS[1], KEYS[2]
if redis.call('HGET', S, 'o') ~= ARGV[1] then return {0} end
-- By the wall clock: negative once that was set to before the server's start.
local info = redis.call('INFO', 'server')
local fence = math.max(tonumber(ARGV[2]), tonumber(redis.call('GET', F) or '0'))
redis.call('SET', F, string.format('%.0f', fence), 'PX', ARGV[3])
redis.call('HSET', S, 't', ARGV[2])
return {1, tonumber(string.match(info, 'uptime_in_seconds:(-?%d+)')), string.match(info, 'run_id:(%w+)')}

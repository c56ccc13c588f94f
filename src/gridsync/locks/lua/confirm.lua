#!lua
-- confirm: write down the fence that a majority of masters leads to, while this one's vote still holds.
-- Whoever is granted next reads it here, or on another master of this majority, and goes beyond it.
-- KEYS[1] state hash: o owner, t fence, s since when in server ms, m about the owner; lives as long as the lease
-- KEYS[2] fence string: the last fence given out
-- ARGV[1] owner string
-- ARGV[2] fence integer, us
-- ARGV[3] fence_ttl integer, ms
-- Returns {1, run id}: it is written, by this run of the server | {0}: the vote is gone
-- Category idempotent
-- Cost O(1), and what INFO costs
local S, F = KEYS[1], KEYS[2]
if redis.call('HGET', S, 'o') ~= ARGV[1] then return {0} end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local fence = math.max(tonumber(ARGV[2]), tonumber(redis.call('GET', F) or '0'))
redis.call('SET', F, string.format('%.0f', fence), 'PX', ARGV[3])
redis.call('HSET', S, 't', ARGV[2])
return {1, run}

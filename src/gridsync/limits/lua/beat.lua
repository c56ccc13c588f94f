#!lua
-- beat: say that this process uses a limiter, and count those that do.
-- KEYS[1] here zset: process -> until when it counts as alive, server ms
-- ARGV[1] process string
-- ARGV[2] life integer, ms
-- Returns how many processes are alive, this one among them
-- Category last-wins
-- Cost O(log n) for the n processes, and for each that died since

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])

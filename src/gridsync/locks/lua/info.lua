#!lua flags=no-writes
-- info: tell who holds a lock and who waits for it.
-- KEYS[1] state hash: o owner, t fence, s since when in server ms, m about the owner; lives as long as the lease
-- KEYS[2] queue zset: waiter, by ticket: the server us of its arrival
-- KEYS[3] alive hash: waiter, to "<the server ms until which it counts as alive> <about it>"
-- KEYS[4] fence string: the last fence given out
-- ARGV[1] most integer, waiters: how many are told at most, first come first
-- Returns {server ms, last fence, ms until the lease ends (-2 nobody holds it), number of waiters, {owner, fence,
-- since in server ms, about it} or {}, {waiter, ticket, what alive says of it}..}
-- Category read
-- Cost O(log waiters) plus O(1) for each waiter that is told
local S, Q, W, F = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('TIME')
local holder = redis.call('HMGET', S, 'o', 't', 's', 'm')
if not holder[1] then holder = {} end
for i = 2, #holder do holder[i] = holder[i] or '' end
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local told = {now, tonumber(redis.call('GET', F) or '0'), redis.call('PTTL', S), redis.call('ZCARD', Q), holder}
local most = tonumber(ARGV[1])
local queue = most > 0 and redis.call('ZRANGE', Q, 0, most - 1, 'WITHSCORES') or {}
for i = 1, #queue, 2 do
  told[#told + 1] = {queue[i], queue[i + 1], redis.call('HGET', W, queue[i]) or '0 '}
end
return told

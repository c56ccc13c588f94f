#!lua flags=no-writes
-- info_share: tell who holds permits and who waits for some.
-- KEYS[1] state hash: l how many permits there are, r 1 if a resize said so, u how many are taken
-- KEYS[2] held zset: owner, by the server ms until which it holds
-- KEYS[3] what hash: owner, to "<permits> <fence> <since, server ms> <about it>"
-- KEYS[4] queue zset: waiter, by ticket: the server us of its arrival
-- KEYS[5] alive hash: waiter, to "<the server ms until which it counts as alive> <permits> <about it>"
-- KEYS[6] fence string: the last fence given out
-- ARGV[1] holders integer, holders: how many are told at most, those whose leases end first
-- ARGV[2] waiters integer, waiters: how many are told at most, first come first
-- Returns {server ms, last fence, permits there are (0 nobody has said), permits taken, number of holders, number of
-- waiters, {{owner, until, what is said of it}..}, {waiter, ticket, what alive says of it}..}
-- Category read
-- Cost O(log holders + log waiters) plus O(1) for each one that is told, or whose lease has ended
local S, H, P, Q, W, F = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local after = string.format('(%.0f', now)
local holding = redis.call('ZCOUNT', H, after, '+inf')
local taken = tonumber(redis.call('HGET', S, 'u'))
if not taken then
  taken = 0
  for _, said in ipairs(redis.call('HVALS', P)) do taken = taken + tonumber(string.match(said, '^%d+')) end
end
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', H, '-inf', now, 'LIMIT', 0, 1000)) do
  taken = taken - tonumber(string.match(redis.call('HGET', P, owner) or '0', '^%d+'))
end
local held = {}
local all = redis.call('ZRANGEBYSCORE', H, after, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[1])
for i = 1, #all, 2 do held[#held + 1] = {all[i], all[i + 1], redis.call('HGET', P, all[i]) or '0 0 0 '} end
local last, limit = tonumber(redis.call('GET', F) or '0'), tonumber(redis.call('HGET', S, 'l') or '0')
local told = {now, last, limit, holding > 0 and taken or 0, holding, redis.call('ZCARD', Q), held}
local most = tonumber(ARGV[2])
local queue = most > 0 and redis.call('ZRANGE', Q, 0, most - 1, 'WITHSCORES') or {}
for i = 1, #queue, 2 do
  told[#told + 1] = {queue[i], queue[i + 1], redis.call('HGET', W, queue[i]) or '0 0 '}
end
return told

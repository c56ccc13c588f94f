#!lua
-- count_down: lower the latch, once for each id, and wake everybody when it opens.
-- KEYS[1] state hash: c the count, n what remains of it
-- KEYS[2] by hash: id, by how much it counted down
-- KEYS[3] alive zset: waiter, by the server ms until which it counts as alive
-- ARGV[1] count integer, count: what the latch starts from
-- ARGV[2] ttl integer, ms: how long the latch is kept after its last use
-- ARGV[3] id string: counts down once
-- ARGV[4] amount integer, count
-- ARGV[5] wake_prefix string: a waiter listens on this plus the first 12 characters of its name
-- Returns {remaining, count}; nothing was done if that is not the count that was given
-- Category idempotent
-- Cost O(1), and O(waiters) when it opens
local S, B, W = KEYS[1], KEYS[2], KEYS[3]
redis.call('HSETNX', S, 'c', ARGV[1])
redis.call('HSETNX', S, 'n', ARGV[1])
local count, rest = tonumber(redis.call('HGET', S, 'c')), tonumber(redis.call('HGET', S, 'n'))
redis.call('PEXPIRE', S, ARGV[2])
if count ~= tonumber(ARGV[1]) then return {rest, count} end
-- What counts down an open latch need not be remembered, so the ids are never more than the count.
if rest > 0 and redis.call('HEXISTS', B, ARGV[3]) == 0 then
  rest = math.max(0, rest - tonumber(ARGV[4]))
  local waiters = rest == 0 and redis.call('ZRANGE', W, 0, -1) or {}
  redis.call('HSET', B, ARGV[3], ARGV[4])
  redis.call('HSET', S, 'n', rest)
  if rest == 0 then
    local command = string.sub(ARGV[5], 1, 1) == '{' and 'SPUBLISH' or 'PUBLISH'
    for _, waiter in ipairs(waiters) do redis.pcall(command, ARGV[5] .. string.sub(waiter, 1, 12), waiter) end
    redis.call('DEL', W)
  end
end
redis.call('PEXPIRE', B, ARGV[2])
return {rest, count}

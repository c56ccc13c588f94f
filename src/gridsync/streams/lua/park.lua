#!lua flags=allow-oom
-- park: put a delivery that failed aside until it is due, if it is still this consumer's; it stays pending.
-- KEYS[1] log stream
-- KEYS[2] retry zset
-- KEYS[3] failed hash
-- ARGV[1] group string
-- ARGV[2] consumer string
-- ARGV[3] id string
-- ARGV[4] delay integer, ms
-- ARGV[5] attempts integer, deliveries that were begun
-- ARGV[6] stream string: its later events wait behind this one; empty if they do not
-- ARGV[7] error bytes: its class, the trace of the attempt, and its text, separated by line feeds
-- Returns {1, ms until it is due} parked, {0, 0} no longer pending, {-1, 0} delivered to another consumer since
-- Category idempotent
-- Cost O(log pending)
local log, retry, failed, group, consumer, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3]
local delay, attempts, key, problem = tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local who = attempts .. ' ' .. #consumer .. ' ' .. consumer .. ' '
local known = redis.call('HGET', failed, id)
local first = known and string.match(known, '^%d+') or now
if known and string.sub(string.match(known, '^%d+ %d+ (.*)$'), 1, #who) == who then
  return {1, math.max(0, (redis.call('ZSCORE', retry, id) or now) - now)}
end
local pending = redis.call('XPENDING', log, group, id, id, '1')[1]
if not pending then return {0, 0} end
if pending[2] ~= consumer then return {-1, 0} end
redis.call('XCLAIM', log, group, '~parked', '0', id, 'JUSTID')
redis.call('ZADD', retry, now + delay, id)
redis.call('HSET', failed, id, first .. ' ' .. now .. ' ' .. who .. problem)
if key ~= '' then
  local head = redis.call('HGET', failed, 'k' .. key)
  if not head or tonumber(string.match(id, '^%d+')) < tonumber(string.match(head, '^%d+')) then
    redis.call('HSET', failed, 'k' .. key, id)
  end
  redis.call('HSET', failed, 'h' .. id, key)
end
return {1, delay}

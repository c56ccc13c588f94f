#!lua flags=allow-oom
-- park: put a delivery that failed aside until it is due, if it is still this consumer's; it stays pending.
-- KEYS[1] log stream
-- KEYS[2] retry zset
-- KEYS[3] failed hash
-- KEYS[4] waiting zset
-- ARGV[1] group string
-- ARGV[2] consumer string
-- ARGV[3] id string
-- ARGV[4] delay integer, ms
-- ARGV[5] attempts integer, deliveries that were begun
-- ARGV[6] stream string: its later events wait behind this one; empty if they do not
-- ARGV[7] error bytes: its class, the trace of the attempt, and its text, separated by line feeds
-- Returns {1, ms until it is due} parked, {0, 0} no longer pending, {-1, 0} delivered to another consumer since
-- Category idempotent
-- Cost O(log pending + log waiting)
local log, retry, failed, waiting, group, consumer, id = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], ARGV[2], ARGV[3]
-- include parts/behind.lua
local delay, attempts, key, problem = tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local who = attempts .. ' ' .. #consumer .. ' ' .. consumer .. ' '
local known = redis.call('HGET', failed, id)
local first = known and string.match(known, '^%d+') or now
if known and string.sub(string.match(known, '^%d+ %d+ (.*)$'), 1, #who) == who then
  return {1, math.max(0, (redis.call('ZSCORE', retry, id) or redis.call('HGET', failed, 'w' .. id) or now) - now)}
end
local pending = redis.call('XPENDING', log, group, id, id, '1')[1]
if not pending then return {0, 0} end
-- Begun more often since: this request is late.
if pending[2] ~= consumer or pending[4] > tonumber(attempts) then return {-1, 0} end
redis.call('XCLAIM', log, group, '~parked', '0', id, 'JUSTID')
redis.call('ZADD', retry, now + delay, id)
redis.call('HSET', failed, id, first .. ' ' .. now .. ' ' .. who .. problem)
if key ~= '' then
  local head = redis.call('HGET', failed, 'k' .. key) or id
  if head ~= id then
    -- Both were begun before either failed, or this one is a dead letter that was given back.  The later one waits for
    -- the earlier, too, or what is behind it would go on when that is settled; and then for the end of its own pause.
    local late = id
    if tonumber(string.match(id, '^%d+')) < tonumber(string.match(head, '^%d+')) then late, head = head, id end
    local due = redis.call('ZSCORE', retry, late)
    if due then
      redis.call('ZREM', retry, late)
      redis.call('ZADD', waiting, '0', place_of(key, late))
      redis.call('HSET', failed, 'w' .. late, due)
    end
  end
  redis.call('HSET', failed, 'k' .. key, head)
  redis.call('HSET', failed, 'h' .. id, key)
end
return {1, delay}

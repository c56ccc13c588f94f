#!lua flags=allow-oom
-- begin: count the attempt that begins now, or put the delivery behind an earlier event of its stream that failed.
-- KEYS[1] log stream
-- KEYS[2] failed hash
-- KEYS[3] waiting zset
-- ARGV[1] group string
-- ARGV[2] consumer string
-- ARGV[3] id string
-- ARGV[4] attempts integer, deliveries that were begun, with this one
-- ARGV[5] stream string
-- Returns {code, what is known of its failures}; code 1 begin, 0 it waits its turn, -1 no longer this consumer's
-- Category idempotent
-- Cost O(log pending + log waiting)
local log, failed, waiting, group, consumer, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3]
local attempts, key = ARGV[4], ARGV[5]
-- include parts/behind.lua
local place = place_of(key, id)
local pending = redis.call('XPENDING', log, group, id, id, '1')[1]
-- Begun more often since: this request is late, or of an earlier life of a consumer with the same name.
if not pending or pending[2] ~= consumer or pending[4] > tonumber(attempts) then
  return {redis.call('ZSCORE', waiting, place) and 0 or -1, ''}
end
local head = redis.call('HGET', failed, 'k' .. key)
if head and tonumber(string.match(head, '^%d+')) < tonumber(string.match(id, '^%d+')) then
  redis.call('XCLAIM', log, group, '~parked', '0', id, 'RETRYCOUNT', attempts - 1, 'JUSTID')
  redis.call('ZADD', waiting, '0', place)
  return {0, ''}
end
redis.call('XCLAIM', log, group, consumer, '0', id, 'RETRYCOUNT', attempts, 'JUSTID')
return {1, redis.call('HGET', failed, id) or ''}

#!lua
-- bury: make a delivery a dead letter and take it off the pending list, if it is still this consumer's.
-- KEYS[1] log stream
-- KEYS[2] retry zset
-- KEYS[3] failed hash
-- KEYS[4] waiting zset
-- KEYS[5] dead stream
-- ARGV[1] group string
-- ARGV[2] consumer string
-- ARGV[3] id string
-- ARGV[4] attempts integer, deliveries that were begun
-- ARGV[5] kind string: the class of the error
-- ARGV[6] trace string: of the attempt; may be empty
-- ARGV[7] text bytes: what the error said
-- ARGV[8..] fields bytes: the event as it was delivered, for it may be gone from the log
-- Returns 1 buried, 2 the same and what waited behind it is due now, 0 no longer pending, -1 delivered to another consumer since
-- Category idempotent
-- Cost O(log pending)
local log, retry, failed, waiting, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, consumer, id = ARGV[1], ARGV[2], ARGV[3]
-- include parts/settled.lua
local pending = redis.call('XPENDING', log, group, id, id, '1')[1]
if not pending then return 0 end
if pending[2] ~= consumer then return -1 end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local known = redis.call('HGET', failed, id)
local first = known and string.match(known, '^%d+') or now
-- Eight fields of ours, then those of the event.
redis.call('XADD', dead, '*', 'p', string.match(id, '^%d+'), 'n', ARGV[4], 'f', first, 'l', now, 'c', consumer,
  'e', ARGV[5], 'r', ARGV[6], 'x', ARGV[7], unpack(ARGV, 8))
redis.call('XACK', log, group, id)
return settled(id) and 2 or 1

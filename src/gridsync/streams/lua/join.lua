#!lua
-- join: make sure that the consumer group exists; one that was lost starts again where it surely had got to.
-- KEYS[1] log stream
-- KEYS[2] meta hash
-- KEYS[3] group hash
-- KEYS[4] retry zset
-- KEYS[5] failed hash
-- KEYS[6] waiting zset
-- ARGV[1] group string
-- ARGV[2] now flag: a group that never was starts after the newest event, not before the first
-- Returns 1 if it was created, else 0
-- Category idempotent
-- Cost O(1)
local log, meta, group = KEYS[1], KEYS[2], KEYS[3]
local floor = redis.call('HGET', group, 'floor')
if not floor then
  floor = ARGV[2] == '1' and redis.call('HGET', meta, 'pos') or '0'
end
local made = redis.pcall('XGROUP', 'CREATE', log, ARGV[1], floor .. '-0', 'MKSTREAM', 'ENTRIESREAD', floor)
if made.err then
  if string.find(made.err, 'BUSYGROUP', 1, true) then return 0 end
  return made
end
-- What was parked was pending, so it is behind the floor and comes again by itself.
redis.call('DEL', KEYS[4], KEYS[5], KEYS[6])
redis.call('HSET', group, 'floor', floor)
return 1

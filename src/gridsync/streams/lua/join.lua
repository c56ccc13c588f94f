#!lua
-- join: make sure that the consumer group exists; one that was lost starts again where it surely had got to.
-- KEYS[1] log stream
-- KEYS[2] meta hash
-- KEYS[3] floors hash
-- KEYS[4] retry zset
-- KEYS[5] failed hash
-- KEYS[6] waiting zset
-- ARGV[1] group string
-- ARGV[2] now flag: a group that never was starts after the newest event, not before the first
-- ARGV[3] skip flag: a group that was lost may go on behind events that were removed before it had them
-- Returns {1 if it was created, else 0; 0; 0}, or {-1, how many events it would have to skip, the first that is there}
-- Category idempotent
-- Cost O(1)
local log, meta, floors, group = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local place = redis.call('HMGET', meta, 'pos', 'trimmed')
if place[1] and not tonumber(place[1]) then
  return redis.error_reply('PARTITIONED this store is in several partitions')
end
local trimmed = tonumber(place[2] or 0)
local noted = redis.call('HGET', floors, group)
local floor, skipped
if noted then
  floor = tonumber(string.match(noted, '^%d+'))
  skipped = math.max(0, trimmed - floor)
else
  floor, skipped = ARGV[2] == '1' and tonumber(place[1] or 0) or trimmed, 0
end
if skipped > 0 and ARGV[3] ~= '1' then
  for _, row in ipairs(redis.call('EXISTS', log) == 1 and redis.call('XINFO', 'GROUPS', log) or {}) do
    if row[2] == group then return {0, 0, 0} end
  end
  return {-1, skipped, trimmed + 1}
end
floor = floor + skipped
local made = redis.pcall('XGROUP', 'CREATE', log, group, floor .. '-0', 'MKSTREAM', 'ENTRIESREAD', floor)
if made.err then
  if string.find(made.err, 'BUSYGROUP', 1, true) then return {0, 0, 0} end
  return made
end
-- What was parked was pending, so it is behind the floor and comes again by itself.
redis.call('DEL', KEYS[4], KEYS[5], KEYS[6])
local clock = redis.call('TIME')
redis.call('HSET', floors, group, floor .. ' ' .. clock[1] .. string.format('%03d', math.floor(clock[2] / 1000)))
return {1, 0, 0}

#!lua
-- follow: make a store the mirror of another one, or find that it is.
-- KEYS[1] meta hash
-- KEYS[2] log stream
-- KEYS[3] mirror hash
-- KEYS[4] readers hash
-- KEYS[5] floors hash
-- ARGV[1] site string: the store that is to be mirrored
-- ARGV[2] epoch integer, promotions: of that store
-- ARGV[3] own string: what this store is called if it has no name yet
-- ARGV[4] last string: the checkpoint of the last event here, which stands there as well; 0 for none
-- ARGV[5] reader string: what this one was called there as long as it was mirrored by that store
-- Returns {0, checkpoint, own site} it is one, {1} the same store, {2, site} a mirror of another store, {3, position} it has events of its own, {4, position} these are not there, {5, epoch} that store is in an older epoch
-- Category idempotent
-- Cost O(1)
local meta, log, mirror, floors, site, epoch = KEYS[1], KEYS[2], KEYS[3], KEYS[5], ARGV[1], ARGV[2]

-- include parts/leave.lua

local kept = redis.call('HMGET', meta, 'pos', 'ro', 'site', 'epoch')
local noted = redis.call('HMGET', mirror, 'site', 'at', 'epoch')
local position = tonumber(kept[1] or 0)
if not position then return redis.error_reply('PARTITIONED this store is in several partitions') end
if kept[3] == site then return {1} end
if tonumber(epoch) < math.max(tonumber(kept[4] or 0), tonumber(noted[3] or 0)) then
  return {5, math.max(tonumber(kept[4] or 0), tonumber(noted[3] or 0))}
end
if kept[2] == 'mirror' then
  if noted[1] ~= site then return {2, noted[1] or ''} end
  redis.call('HSET', mirror, 'epoch', epoch)
  return {0, noted[2], kept[3]}
end
if position > 0 then
  if not kept[2] then return {3, position} end
  local entry = redis.call('XREVRANGE', log, '+', '-', 'COUNT', '1')[1]
  local there = {}
  for k = 1, entry and #entry[2] or 0, 2 do there[entry[2][k]] = entry[2][k + 1] end
  local newest = entry and string.match(entry[1], '^%d+') .. ':' .. (there.w or '') .. ':' .. (there.i or '')
  if newest ~= ARGV[4] or string.match(entry[1], '^%d+') ~= kept[1] then return {4, position} end
elseif redis.call('XLEN', log) > 0 then
  return redis.error_reply('INCONSISTENT this store has events but its counters are gone; restore its keys')
end
-- From now on the groups get on at that store; here they are made again when this one is promoted.
for _, group in ipairs(note_groups(position)) do redis.call('XGROUP', 'DESTROY', log, group) end
redis.call('HSETNX', meta, 'site', ARGV[3])
redis.call('HSET', meta, 'ro', 'mirror', 'pos', position .. '')
redis.call('HSET', mirror, 'site', site, 'epoch', epoch, 'at', position > 0 and ARGV[4] or '0')
-- It follows now: it waits for nobody who follows it.
redis.call('HDEL', KEYS[4], ARGV[5])
return {0, position > 0 and ARGV[4] or '0', redis.call('HGET', meta, 'site')}

#!lua
-- mirror: write events of the store that is mirrored at their positions and versions, and note in the same step how far that is.
-- KEYS[1] meta hash
-- KEYS[2] versions hash
-- KEYS[3] log stream
-- KEYS[4] recent zset
-- KEYS[5] mirror hash
-- KEYS[6] erased hash
-- KEYS[7] holes zset
-- KEYS[8..] streams stream: those of the events
-- ARGV[1] window integer, events
-- ARGV[2] mode string: link if the log only says where the payloads are, empty if it has them
-- ARGV[3] site string: the store that is mirrored
-- ARGV[4] epoch integer, promotions: of that store
-- ARGV[5] before string: the checkpoint of the event before the first one
-- ARGV[6] after string: the checkpoint of the last one
-- ARGV[7..] words bytes: the name of each stream; then of each event the number of its stream, version, id, type, payload, time, how many further words, and these; of one that was erased no id, and version 0 if nobody knows it
-- Returns {0, position} they are there, {1, position} a gap: that one is the last here, {2, position} another event stands there, {3, epoch} no mirror of that store
-- Category idempotent
-- Cost O(log window) per event
local args, meta, versions, log, recent, mirror = ARGV, KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local erased, holes = KEYS[6], KEYS[7]
local window, mode, site, epoch, before, after = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

-- include parts/counters.lua

local noted = redis.call('HMGET', mirror, 'site', 'epoch', 'at')
if kept[4] ~= 'mirror' or noted[1] ~= site or tonumber(epoch) < tonumber(noted[2]) then return {3, tonumber(kept[5] or 0)} end
local function number(checkpoint) return tonumber(string.match(checkpoint, '^%d+')) end
-- Of an event that was erased, on either side, nothing but the position is known.
local function other(one, another)
  return one ~= another and string.find(one, ':', 1, true) and string.find(another, ':', 1, true)
end
local first, last = number(before) + 1, number(after)
if number(noted[3]) ~= position or (position == 0 and redis.call('XLEN', log) > 0) then
  return redis.error_reply('INCONSISTENT the mirror is noted at ' .. noted[3] .. ' and counts to ' .. position .. '; restore the keys of this store')
end
if first > position + 1 then return {1, position} end
if (first == position + 1 and other(before, noted[3])) or (last == position and other(after, noted[3])) then return {2, position} end
if last <= position then
  -- A repeat, a late copy, or somebody else was faster.
  local entry = redis.call('XRANGE', log, last .. '-0', last .. '-0')[1]
  local there = {}
  for k = 1, entry and #entry[2] or 0, 2 do there[entry[2][k]] = entry[2][k + 1] end
  if entry and other(last .. ':' .. there.w .. ':' .. there.i, after) then return {2, last} end
  return {0, position}
end

-- Every check comes before the first write.
local streams = #KEYS - 7
local begin, version, counted = 7 + streams, redis.call('HMGET', versions, unpack(args, 7, 6 + streams)), {}
for k = 1, streams do
  version[k] = tonumber(version[k] or 0)
  counted[k] = version[k]
  if version[k] == 0 and redis.call('XLEN', KEYS[7 + k]) > 0 then
    return redis.error_reply('INCONSISTENT ' .. args[6 + k] .. ' has events but its counters are gone; restore the keys of this store')
  end
end
local at, p = begin, first - 1
while at <= #args do
  p = p + 1
  local stream, id = tonumber(args[at]), args[at + 2]
  if p > position then
    counted[stream] = counted[stream] + 1
    if args[at + 1] ~= '0' and tonumber(args[at + 1]) ~= counted[stream] then return {2, p} end
  elseif p == position and id ~= '' and other(p .. ':' .. args[at + 5] .. ':' .. id, noted[3]) then
    return {2, p}
  end
  at = at + 7 + args[at + 6]
end
if p ~= last then return redis.error_reply('ERR these are not the events up to ' .. after) end

if link and position == 0 then redis.call('HSET', meta, 'log', 'link') end
redis.call('HSET', meta, 'pos', last .. '')
redis.call('HSET', mirror, 'at', after, 'epoch', epoch)
at, p = begin, first - 1
while at <= #args do
  p = p + 1
  local stream, id, type, data, time = tonumber(args[at]), args[at + 2], args[at + 3], args[at + 4], args[at + 5]
  local next = at + 7 + args[at + 6]
  if p > position then
    version[stream] = version[stream] + 1
    local name, place, v = args[6 + stream], p .. '', version[stream] .. ''
    if id == '' then
      -- Nothing stands there, here neither.
      redis.call('ZADD', holes, place, place .. ' ' .. v .. ' ' .. name)
      redis.call('HSET', erased, name, v)
    else
      if p > last - window then redis.call('ZADD', recent, place, id .. '\0' .. name) end
      redis.call('XADD', KEYS[7 + stream], v .. '-0', 'i', id, 'p', place, 't', type, 'd', data, 'w', time, unpack(args, at + 7, next - 1))
      if link then
        redis.call('XADD', log, place .. '-0', 'i', id, 's', name, 'v', v, 't', type, 'w', time)
      else
        redis.call('XADD', log, place .. '-0', 'i', id, 's', name, 'v', v, 't', type, 'd', data, 'w', time, unpack(args, at + 7, next - 1))
      end
    end
  end
  at = next
end
for k = 1, streams do redis.call('HSET', versions, args[6 + k], version[k] .. '') end
redis.call('ZREMRANGEBYRANK', recent, '0', -window - 1)
return {0, last}

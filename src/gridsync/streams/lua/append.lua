#!lua
-- append: commit events to one stream at the version the caller expects, and give them the next positions.
-- KEYS[1] meta hash
-- KEYS[2] versions hash
-- KEYS[3] log stream
-- KEYS[4] recent zset
-- KEYS[5] stream stream
-- ARGV[1] name string
-- ARGV[2] expected integer, version: -1 for any, -2 for exists
-- ARGV[3] window integer, events
-- ARGV[4..] events bytes: id, type and payload of each event
-- Returns {0, version, position} written, {1, version, position} written before, {2, version} conflict, {3, version} in part
-- Category idempotent
-- Cost O(log window) per event
local meta, versions, log, recent, stream = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local name, expected, window, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), (#ARGV - 3) / 3
local version = tonumber(redis.call('HGET', versions, name) or 0)
local position = tonumber(redis.call('HGET', meta, 'pos') or 0)

-- A counter without its stream, or the reverse, was evicted or deleted by hand: writing on would mix two histories.
if (version == 0 and redis.call('XLEN', stream) > 0) or (position == 0 and redis.call('XLEN', log) > 0) then
  return redis.error_reply('INCONSISTENT ' .. name .. ' has events but its counters are gone; restore the keys of this store')
end

-- The answer for events that stand after version `base` already, or nil if others stand there.
local function before(base)
  local have = redis.call('XRANGE', stream, (base + 1) .. '-0', (base + count) .. '-0')
  if #have ~= count then return nil end
  for k = 1, count do
    if have[k][2][2] ~= ARGV[1 + 3 * k] then return nil end
  end
  return {1, base + count, tonumber(have[count][2][4])}
end

if expected >= 0 then
  if version ~= expected then
    return version > expected and before(expected) or {2, version}
  end
elseif version == 0 then
  if expected == -2 then return {2, 0} end
else
  for k = 1, count do
    local id = ARGV[1 + 3 * k]
    local at = redis.call('ZSCORE', recent, id .. '\0' .. name)
    if at then
      local seen = redis.call('XRANGE', log, at .. '-0', at .. '-0')[1]
      if not seen or (seen[2][2] == id and seen[2][4] == name) then
        return k == 1 and seen and before(tonumber(seen[2][6]) - 1) or {3, version}
      end
    end
  end
end

local now = redis.call('TIME')
local time = now[1] .. string.format('%06d', now[2])
for k = 1, count do
  local id, type, data = ARGV[1 + 3 * k], ARGV[2 + 3 * k], ARGV[3 + 3 * k]
  version, position = version + 1, position + 1
  -- The index first: should a key have a wrong type, all that is left behind is an entry that leads nowhere.
  redis.call('ZADD', recent, position, id .. '\0' .. name)
  redis.call('XADD', stream, version .. '-0', 'i', id, 'p', position, 't', type, 'd', data, 'w', time)
  redis.call('XADD', log, position .. '-0', 'i', id, 's', name, 'v', version, 't', type, 'd', data, 'w', time)
end
redis.call('HSET', versions, name, version)
redis.call('HSET', meta, 'pos', position)
if position % 64 < count then redis.call('ZREMRANGEBYRANK', recent, 0, -window - 1) end
return {0, version, position}

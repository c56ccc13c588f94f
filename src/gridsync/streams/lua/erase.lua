#!lua flags=allow-oom
-- erase: remove the events of a stream, and note that they were erased, so that nobody takes it for a loss.
-- KEYS[1] meta hash
-- KEYS[2] versions hash
-- KEYS[3] log stream
-- KEYS[4] floors hash
-- KEYS[5] erased hash
-- KEYS[6] holes zset
-- KEYS[7] stream stream
-- KEYS[8] erasing stream: the events of this stream that are still to be removed from the log
-- KEYS[9..] snapshots hash
-- ARGV[1] name string
-- ARGV[2] expected integer, version: -1 for any, -2 for exists
-- ARGV[3] upto integer, version: of an erasure that has begun; 0 if none has
-- ARGV[4] step integer, events: the most to remove
-- Returns {0, up to which version (0: not yet begun), how many were removed, 1 if that may not be all, {the groups that are
-- known}}, or {2, version} conflict
-- Category idempotent
-- Cost O(removed log n + groups)
local meta, versions, log, erased, holes, stream, erasing = KEYS[1], KEYS[2], KEYS[3], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local name, expected, upto = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local version = tonumber(redis.call('HGET', versions, name) or 0)
local before = tonumber(redis.call('HGET', erased, name) or 0)
local cap = redis.call('HGET', meta, 'cap')
if upto == 0 then
  -- Erased up to there already, it is a repeat, whatever was appended since.
  if (expected == -2 and version == 0) or (expected >= 0 and version ~= expected and before ~= expected) then
    return {2, version}
  end
  upto = expected >= 0 and expected or version
  local there = upto == version and redis.call('EXISTS', stream) == 1
  if there and redis.call('EXISTS', erasing) == 1 then
    upto = 0 -- an earlier one has broken off, and is ended first
  else
    if upto > before then redis.call('HSET', erased, name, string.format('%.0f', upto)) end
    -- From here on nobody reads a part of it, however many steps the rest takes.
    if there then redis.call('RENAME', stream, erasing) end
  end
end
local found = redis.call('XRANGE', erasing, '-', '+', 'COUNT', ARGV[4])
for _, event in ipairs(found) do
  local position = event[2][4]
  if redis.call('XDEL', log, position .. '-0') == 1 then
    redis.call('ZADD', holes, position, position .. ' ' .. string.match(event[1], '^%d+') .. ' ' .. name)
  end
  redis.call('XDEL', erasing, event[1])
end
if redis.call('XLEN', erasing) == 0 then redis.call('UNLINK', erasing) end
if #KEYS > 8 then redis.call('UNLINK', unpack(KEYS, 9)) end
if cap and #found > 0 then
  redis.call('HSET', meta, 'full', string.format('%.0f', redis.call('HGET', meta, 'pos') + cap - redis.call('XLEN', log)))
end
local groups, known = redis.call('HKEYS', KEYS[4]), {}
for _, group in ipairs(groups) do known[group] = true end
for _, row in ipairs(redis.call('EXISTS', log) == 1 and redis.call('XINFO', 'GROUPS', log) or {}) do
  if not known[row[2]] then groups[#groups + 1] = row[2] end
end
local more = redis.call('EXISTS', erasing) == 1 or upto == 0 and version > 0
return {0, upto, #found, more and 1 or 0, groups}

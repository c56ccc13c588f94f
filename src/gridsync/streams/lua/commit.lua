#!lua
-- commit: append to several streams of a store and check others, all of it or nothing.
-- KEYS[1] meta hash
-- KEYS[2] versions hash
-- KEYS[3] log stream
-- KEYS[4] recent zset
-- KEYS[5..] streams stream: one for each part
-- ARGV[1] window integer, events
-- ARGV[2] about bytes: what is known of the whole commit, stored with each event; nothing is stored when empty
-- ARGV[3] total integer, events
-- ARGV[4..] parts bytes: of each part the stream's name, the expected version (-1 for any, -2 for exists), how many events, and id, type and payload of each; a part without events is a check
-- Returns {0, version, position, ...} for each stream written, {1, version, position, ...} written before, {2, part, version} conflict, {3, part, version} in part
-- Category idempotent
-- Cost O(log window) per event, O(1) per check
local args, about = ARGV, ARGV[2]
local meta, versions, log, recent = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local position = tonumber(redis.call('HGET', meta, 'pos') or 0)

-- include parts/place.lua

-- Every check comes before the first write; asking for a stream's length is also how a key of a wrong type is noticed.
local fits, before, again, part, refused, at = {}, {1}, true, nil, nil, 4
for k = 1, #KEYS - 4 do
  local stream, name, expected, count = KEYS[4 + k], ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local version = tonumber(redis.call('HGET', versions, name) or 0)
  if (redis.call('XLEN', stream) > 0 and version == 0) or (position == 0 and redis.call('XLEN', log) > 0) then
    return redis.error_reply('INCONSISTENT ' .. name .. ' has events but its counters are gone; restore the keys of this store')
  end
  if count == 0 then
    if version ~= expected and (expected ~= -2 or version == 0) then refused = refused or {2, k, version} end
  else
    local code, last, there = place(stream, name, expected, version, at, count)
    again = again and code == 1
    if code == 0 then
      fits[#fits + 1] = {stream, name, version, at, count}
    elseif code == 1 then
      part = part or {3, k, version}
      before[#before + 1], before[#before + 2] = last, there
    else
      refused = refused or {code, k, version}
    end
  end
  at = at + 3 + 3 * count
end
-- A replay is one whatever has become of the streams that were only checked; a replay of a part is none.
if again then return before end
if refused or part then return refused or part end

local now = redis.call('TIME')
local time = now[1] .. string.format('%06d', now[2])

-- include parts/write.lua

local answer = {0}
for _, one in ipairs(fits) do
  local version
  version, position = write(one[1], one[2], one[3], position, one[4], one[5])
  answer[#answer + 1], answer[#answer + 2] = version, position
end
redis.call('HSET', meta, 'pos', position .. '')
if position % 64 < tonumber(ARGV[3]) then redis.call('ZREMRANGEBYRANK', recent, '0', -ARGV[1] - 1) end
return answer

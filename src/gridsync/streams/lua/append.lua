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
-- ARGV[4] about bytes: what is known of the whole commit, stored with each event; nothing is stored when empty
-- ARGV[5] mode string: link if the log only says where the payloads are, empty if it has them
-- ARGV[6..] events bytes: id, type and payload of each event
-- Returns {0, version, position} written, {1, version, position} written before, {2, version} conflict, {3, version} in part, {5} the log is at its cap
-- Category idempotent
-- Cost O(log window) per event
local args, about, mode, count = ARGV, ARGV[4], ARGV[5], (#ARGV - 5) / 3
local meta, versions, log, recent, stream = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local name = ARGV[1]
local version = tonumber(redis.call('HGET', versions, name) or 0)

-- include parts/counters.lua

-- A counter without its stream, or the reverse, was evicted or deleted by hand: writing on would mix two histories.
if (version == 0 and redis.call('XLEN', stream) > 0) or (position == 0 and redis.call('XLEN', log) > 0) then
  return redis.error_reply('INCONSISTENT ' .. name .. ' has events but its counters are gone; restore the keys of this store')
end

-- include parts/place.lua

local code, last, at = place(stream, name, tonumber(ARGV[2]), version, 3, count)
if closed and code ~= 1 then return closed end
if code > 0 then return {code, last, at} end
-- What was written before is no news, however full the log is.
if kept[3] and position + count > tonumber(kept[3]) then return {5} end

local now = redis.call('TIME')
local time = now[1] .. string.format('%06d', now[2])

-- include parts/write.lua

version, position = write(stream, name, version, position, 3, count)
redis.call('HSET', meta, 'pos', position .. '')
if position % 64 < count then redis.call('ZREMRANGEBYRANK', recent, '0', -ARGV[3] - 1) end
return {0, version, position}

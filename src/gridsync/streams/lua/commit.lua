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
-- ARGV[4] mode string: link if the log only says where the payloads are, empty if it has them
-- ARGV[5..] parts bytes: of each part the stream's name, the expected version (-1 for any, -2 for exists), how many events, and id, type and payload of each; a part without events is a check
-- Returns {0, version, position, ...} for each stream written, {1, version, position, ...} written before, {2, part, version} conflict, {3, part, version} in part, {5} the log is at its cap
-- Category idempotent
-- Cost O(log window) per event, O(1) per check
local args, window, about, total, mode = ARGV, ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local meta, versions, log, recent, streams = KEYS[1], KEYS[2], KEYS[3], KEYS[4], {unpack(KEYS, 5)}
local spare = 0

-- include parts/several.lua

-- Every check comes before the first write.
local answer, fits = examine(5)
return answer or perform(fits, {0})

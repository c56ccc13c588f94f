#!lua
-- accept: append what the outbox of another store sends, each consignment once and in the order of its sender.
-- KEYS[1] meta hash
-- KEYS[2] versions hash
-- KEYS[3] log stream
-- KEYS[4] recent zset
-- KEYS[5] senders hash
-- KEYS[6] stream stream
-- ARGV[1] window integer, events
-- ARGV[2] about bytes: what is known of the consignment, stored with each event; nothing is stored when empty
-- ARGV[3] total integer, events
-- ARGV[4] mode string: link if the log only says where the payloads are, empty if it has them
-- ARGV[5] sender string
-- ARGV[6] number integer, consignments of this sender up to this one
-- ARGV[7..] part bytes: the stream's name, -1 (any version), how many events, and id, type and payload of each
-- Returns {0} written, {1} accepted before, {2, number} a gap: the last one that was accepted
-- Category idempotent
-- Cost O(log window) per event
local args, window, about, total, mode, sender = ARGV, ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local meta, versions, log, recent, senders, streams = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], {KEYS[6]}
local last, number = tonumber(redis.call('HGET', senders, sender) or 0), tonumber(ARGV[6])
if number <= last then return {1} end
if number > last + 1 then return {2, last} end

-- include parts/several.lua

local answer, fits = examine(7)
-- Their ids are there: what was remembered of this sender is gone, and they are not.
if answer and answer[1] ~= 1 then return answer.err and answer or {1} end
if not answer then perform(fits, {0}) end
redis.call('HSET', senders, sender, ARGV[6])
return {answer and 1 or 0}

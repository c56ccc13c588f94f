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
-- Returns {0} written, {1} accepted before, {2, number} a gap, or too far back: the last one that was accepted, {5} the log is at its cap
-- Category idempotent
-- Cost O(log window) per event
local args, window, about, total, mode, sender = ARGV, ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local meta, versions, log, recent, senders, streams = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], {KEYS[6]}
local spare = 0
local number = tonumber(ARGV[6])
-- Of each of the newest 128 that were accepted, its number and the id of its first event.
local mark = sender .. ' ' .. number % 128
local known = redis.call('HMGET', senders, sender, mark)
local last, was = tonumber(known[1] or 0), known[2]
if number > last + 1 then return {2, last} end
if number <= last and (not was or was == number .. ' ' .. args[10]) then return {1} end

-- include parts/several.lua

local answer, fits = examine(7)
if answer and answer[1] == 5 then return answer end
-- Their ids are there: what was remembered of this sender is gone, and they are not.
if answer and answer[1] ~= 1 then return answer.err and answer or {1} end
-- Too old to be compared.  If it is not there, a failover of the sender has lost more than is remembered.
if number <= last and tonumber(string.match(was, '^%d+')) > number then return answer and {1} or {2, last} end
-- Another one than was accepted under this number is of another history of the sender, which goes on from there.
if not answer then perform(fits, {0}) end
redis.call('HSET', senders, sender, math.max(last, number) .. '', mark, number .. ' ' .. args[10])
return {answer and 1 or 0}

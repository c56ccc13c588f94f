#!lua
-- tend: take out what has expired, and say that the book is alive.
-- KEYS[1] meta hash
-- KEYS[2] versions hash
-- KEYS[3] log stream
-- KEYS[4] stream stream
-- KEYS[5] buy zset
-- KEYS[6] sell zset
-- KEYS[7] book hash
-- KEYS[8] expiry zset
-- KEYS[9] seen hash
-- KEYS[10] older hash
-- KEYS[11] metadata string
-- ARGV[1] name string: of the stream
-- ARGV[2] mode string: link if the log only says where the payloads are, empty if it has them
-- ARGV[3] terms string: tick and lot
-- ARGV[4] remember integer, ms
-- Returns {0, sequence} | {3, terms} the book has others | {5, events} the log is full | {6} more may have expired: ask again
-- Category idempotent
-- Cost O(log orders) per order that is taken out, at most 100
local meta, versions, log, stream, buy, sell = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local book, expiry, seen, metadata = KEYS[7], KEYS[8], {KEYS[9], KEYS[10]}, KEYS[11]
local name, mode, terms, remember = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local id, level = '', ''

-- include parts/book.lua

local total
-- include parts/sweep.lua

-- include parts/settle.lua

return {more and 6 or 0, version}

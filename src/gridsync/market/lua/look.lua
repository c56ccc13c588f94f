#!lua flags=no-writes
-- look: what is known of an order.
-- KEYS[1] book hash
-- KEYS[2..] seen hash: both
-- ARGV[1] id string: of the order
-- ARGV[2] terms string: tick and lot
-- Returns {1, record} open | {0, how and left and what its placing was answered} ended | {0} unknown | {3, terms} the book has others
-- Category read
-- Cost O(1)
local found = redis.call('HMGET', KEYS[1], 'terms', 'o:' .. ARGV[1])
if found[1] and found[1] ~= ARGV[2] then return {3, found[1]} end
if found[2] then return {1, found[2]} end
local ended = redis.call('HGET', KEYS[2], ARGV[1]) or redis.call('HGET', KEYS[3], ARGV[1])
return {0, ended or nil}

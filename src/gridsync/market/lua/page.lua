#!lua flags=no-writes
-- page: some of the orders of one side, in the order in which they will be served.
-- KEYS[1] versions hash
-- KEYS[2] side zset
-- KEYS[3] book hash
-- ARGV[1] name string: of the stream
-- ARGV[2] first integer, orders before it
-- ARGV[3] count integer, orders
-- Returns {sequence, member, score, record, ...}
-- Category read
-- Cost O(log orders + count)
local page = redis.call('ZRANGE', KEYS[2], ARGV[2], ARGV[2] + ARGV[3] - 1, 'WITHSCORES')
local found, fields = {tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)}, {}
for k = 1, #page, 2 do fields[#fields + 1] = 'o:' .. string.sub(page[k], 18) end
local records = #fields > 0 and redis.call('HMGET', KEYS[3], unpack(fields)) or {}
for k = 1, #fields do
  found[3 * k - 1], found[3 * k], found[3 * k + 1] = page[2 * k - 1], page[2 * k], records[k] or ''
end
return found

#!lua
-- read: read entries, and how long each of them remains.
-- KEYS[1..] entry string: a header line, then the value; lives as long as it may be served
-- ARGV none
-- Returns the entry, or nothing, and its life in ms, for each
-- Category read
-- Cost O(size of the entries)
local found = {}
for k, key in ipairs(KEYS) do
  found[2 * k - 1] = redis.call('GET', key) or ''
  found[2 * k] = redis.call('PTTL', key)
end
return found

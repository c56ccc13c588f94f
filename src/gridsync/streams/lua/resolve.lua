#!lua flags=no-writes
-- resolve: read events of which the log only says where they are.
-- KEYS[1] meta hash
-- KEYS[2..] streams stream
-- ARGV[1..] runs integer, number: of each run of events which of the streams they are in, from 1, and their first and last version
-- Returns {last position, {{id, fields}, ...} of each run: those that are there, ...}
-- Category read
-- Cost O(events + runs log n)
local found = {tonumber(redis.call('HGET', KEYS[1], 'pos') or 0)}
for k = 1, #ARGV, 3 do
  found[#found + 1] = redis.call('XRANGE', KEYS[1 + ARGV[k]], ARGV[k + 1] .. '-0', ARGV[k + 2] .. '-0')
end
return found

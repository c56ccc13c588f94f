#!lua flags=no-writes
-- look_parked: say which deliveries of a group were put aside, and why, for people; those that are due first come first.
-- KEYS[1] log stream
-- KEYS[2] retry zset
-- KEYS[3] failed hash
-- ARGV[1] group string
-- ARGV[2] most integer, deliveries
-- Returns {{id, due ms, times begun, what is known of its failures, stream, type}, ...}
-- Category read
-- Cost O(most log parked)
local log, retry, failed, group = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local found = {}
local rows = redis.call('ZRANGE', retry, '0', ARGV[2] - 1, 'WITHSCORES')
for k = 1, #rows, 2 do
  local id = rows[k]
  local pending = redis.call('XPENDING', log, group, id, id, '1')[1]
  local event = redis.call('XRANGE', log, id, id)[1]
  local said = {}
  for n = 1, event and #event[2] or 0, 2 do said[event[2][n]] = event[2][n + 1] end
  -- Settled meanwhile, and its note is not swept yet: it is not put aside any more.
  if pending then
    found[#found + 1] = {id, tonumber(rows[k + 1]), pending[4], redis.call('HGET', failed, id) or '', said['s'] or '', said['t'] or ''}
  end
end
return found

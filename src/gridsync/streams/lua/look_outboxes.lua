#!lua flags=no-writes
-- look_outboxes: say what was sent to other stores and was not moved yet, for people.
-- KEYS[1] sent hash
-- KEYS[2..] outboxes stream
-- Returns {{consignments ever, consignments, events, when the oldest was committed (us, 0: none), its age in us (-1: none)},
-- ...} of each outbox
-- Category read
-- Cost O(outboxes)
local clock, found = redis.call('TIME'), {}
for n = 2, #KEYS do
  local box = KEYS[n]
  local first = redis.call('XRANGE', box, '-', '+', 'COUNT', '1')[1]
  local events, since, age = 0, 0, -1
  if first then
    -- The facts of a consignment come before its events, whose names are others.
    local facts, total = {}, redis.call('HGET', KEYS[1], '#' .. box) or 0
    for k = 1, #first[2], 2 do facts[first[2][k]] = first[2][k + 1] end
    events = math.max(0, total - (facts['n'] or 0))
    since = tonumber(facts['w'] or 0)
    age = math.max(0, clock[1] * 1000000 + clock[2] - since)
  end
  found[n - 1] = {tonumber(redis.call('HGET', KEYS[1], box) or 0), redis.call('XLEN', box), events, since, age}
end
return found

#!lua flags=allow-oom
-- moved: take out of an outbox what the other store has accepted, if that is what is still there.
-- KEYS[1] box stream
-- ARGV[1..] consignments string: of each its id and the id of its first event, which is its first field i
-- Returns how many were there
-- Category idempotent
-- Cost O(consignments)
local count = 0
for k = 1, #ARGV, 2 do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[k], ARGV[k])[1]
  -- A failover may have lost it, and another one got its number, which the other store does not have.
  local n = 1
  while entry and entry[2][n] and entry[2][n] ~= 'i' do n = n + 2 end
  if entry and entry[2][n + 1] == ARGV[k + 1] then count = count + redis.call('XDEL', KEYS[1], ARGV[k]) end
end
return count

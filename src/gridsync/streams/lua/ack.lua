#!lua flags=allow-oom
-- ack: take handled deliveries off the pending list, if they are still this consumer's and of these events.
-- KEYS[1] log stream
-- KEYS[2] retry zset
-- KEYS[3] failed hash
-- KEYS[4] waiting zset
-- ARGV[1] group string
-- ARGV[2] consumer string
-- ARGV[3..] done string: of each delivery its id, and the event's id and, behind a space, the time of its commit
-- Returns for each id 1 acknowledged, 2 the same and what waited behind it is due now, 0 not pending (acknowledged
-- before), -1 delivered to another consumer since, or a failover has lost the event and another one has its position
-- Category idempotent
-- Cost O(log pending) per id
local log, retry, failed, waiting, group, consumer = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], ARGV[2]
-- include parts/settled.lua
local some_failed = redis.call('EXISTS', failed) == 1
local codes, proven = {}, 0
-- A failover loses the end of the log: what stands before an event that is still the same one is the same, too.
for k = #ARGV - 1, 3, -2 do
  local id, n = ARGV[k], (k - 1) / 2
  local position, there = tonumber(string.match(id, '^%d+')), {}
  local entry = position > proven and redis.call('XRANGE', log, id, id)[1]
  for f = 1, entry and #entry[2] or 0, 2 do there[entry[2][f]] = entry[2][f + 1] end
  local lost = entry and (there.i or '') .. ' ' .. (there.w or '') ~= ARGV[k + 1]
  if entry and not lost then proven = position end
  local pending = not lost and redis.call('XPENDING', log, group, id, id, '1')[1]
  if lost or pending and pending[2] ~= consumer then
    codes[n] = -1
  else
    codes[n] = pending and redis.call('XACK', log, group, id) or 0
    if some_failed and settled(id) then codes[n] = 2 end
  end
end
return codes

#!lua
-- look_at_leader: say who leads, and wait for a change.
-- KEYS[1] state hash: o owner, t fence, s since when in server ms, m about the owner; lives as long as the lease
-- KEYS[2] watchers zset: watcher, by the server ms until which it counts as alive
-- ARGV[1] watcher string
-- ARGV[2] alive integer, ms: how long this watcher counts as alive; 0 does not watch
-- Returns {term (0 nobody leads), owner, since when in server ms, about the owner}
-- Category idempotent
-- Cost O(log watchers)
local alive = tonumber(ARGV[2])
if alive > 0 then
  local time = redis.call('TIME')
  local now = math.floor((time[1] * 1000000 + time[2]) / 1000)
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + alive), ARGV[1])
  redis.call('PEXPIRE', KEYS[2], alive * 2)
end
local found = redis.call('HMGET', KEYS[1], 'o', 't', 's', 'm')
if not found[1] then return {0, '', 0, ''} end
return {tonumber(found[2]), found[1], tonumber(found[3]), found[4]}

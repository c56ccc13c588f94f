#!lua
-- snapshot: keep what a stream amounts to at one version, unless a newer snapshot of the same history is there.
-- KEYS[1] snapshot hash
-- KEYS[2] stream stream
-- KEYS[3] aggregates set
-- ARGV[1] version integer, version
-- ARGV[2] id string: the event that stands at that version
-- ARGV[3] base integer, version: where the decision was made that led there; 0 at the beginning
-- ARGV[4] base_id string: the event that stood there
-- ARGV[5] base_time integer, us
-- ARGV[6] schema string: what can read the state
-- ARGV[7] state bytes
-- ARGV[8] aggregate string: its kind
-- Returns 1 kept, 0 a newer one is there, -1 these events are not there
-- Category idempotent
-- Cost O(1)
local key, stream, version, id = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
-- The time of the commit of the event that stands there, if it is the one with this id.
local function committed(at, with)
  local event = redis.call('XRANGE', stream, at .. '-0', at .. '-0')[1]
  return event and event[2][2] == with and event[2][10]
end
local time = committed(version, id)
-- A failover may have come between loading and appending: the version fits, and what was loaded is gone.
if not time or (ARGV[3] ~= '0' and committed(ARGV[3], ARGV[4]) ~= ARGV[5]) then return -1 end
-- One that is newer but of events that a failover lost is none.
local kept = redis.call('HMGET', key, 'v', 'i', 'w')
if kept[1] and tonumber(kept[1]) > tonumber(version) and committed(kept[1], kept[2]) == kept[3] then return 0 end
redis.call('SADD', KEYS[3], ARGV[8])
redis.call('HSET', key, 'v', version, 'i', id, 'w', time, 's', ARGV[6], 'd', ARGV[7])
return 1

#!lua flags=no-writes
-- look_kind: say what one subject has used of a rule that is no sliding window, for people.
-- KEYS[1] kept any: a bucket, counters or slots, see parts/
-- ARGV[1] kind string: what it is: bucket, fixed, approx or slots
-- ARGV[2] window integer, us: how far back to count the hits of a bucket
-- Returns {used, more, until_us, ttl_ms}: units, whether they may be more, and when the bucket is full, the counters are
-- over, or the last slot is free; or {} if the key is of another type or not there.  Used is what the newest hits of a bucket took within
-- the window, at most sixteen of them; what counters hold; or how many slots are taken
-- Category read
-- Cost O(log n) for n taken slots, else O(1)

local key, kind, back = KEYS[1], ARGV[1], tonumber(ARGV[2])
if redis.call('TYPE', key)['ok'] ~= (kind == 'slots' and 'zset' or 'string') then return {} end
local ttl = redis.call('PTTL', key)
if kind == 'bucket' then
local p, q, burst = 1, 1, 2 ^ 52 -- they are not stored; these cut nothing off
-- include parts/bucket.lua

  local units, within = 0, 0
  for at, cost in string.gmatch(hits, ',(%d+),(%d+);') do
    if tonumber(at) > now - back then units, within = units + cost, within + 1 end
  end
  return {units, within == 16 and 1 or 0, until_full(), ttl}
end
if kind == 'slots' then
local limit = 0
-- include parts/slots.lua

  return {taken, 0, until_free(), ttl}
end
local limit, window, weighted = 0, math.huge, false
-- include parts/counters.lua

-- The key outlives its counters by five seconds.
if ttl <= 5000 then return {0, 0, 0, ttl} end
return {used + before, 0, (ttl - 5000) * 1000, ttl}

#!lua flags=no-writes
-- look: say what the log of one subject holds, for people.
-- KEYS[1] log zset: <cumulative cost><mark><hits> -> when they were or will be admitted, us since 2025-01-01
-- ARGV[1] window integer, us: how far back to count
-- Returns {entries, units within the window, units in the future, first, last, now, ttl_ms}: first and last entry in us
-- since 2025-01-01; or {} if the key is no log or not there
-- Category read
-- Cost O(log n) in the entries of the log

local RING = 4503599627370496
local key = KEYS[1]
if redis.call('TYPE', key)['ok'] ~= 'zset' then return {} end
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]
local first = redis.call('ZRANGE', key, '0', '0', 'WITHSCORES')
local last = redis.call('ZREVRANGE', key, '0', '0', 'WITHSCORES')
local total, mark = string.match(last[1], '^(%d+)(.?)')

-- What was admitted after a moment; of a log whose head was trimmed, what is left of that.
local function since(moment)
  local before = redis.call('ZREVRANGEBYSCORE', key, moment, '-inf', 'LIMIT', '0', '1')[1]
  if not before and mark == '+' then before = first[1] end
  return (total - (before and string.match(before, '^%d+') or 0)) % RING
end
return {redis.call('ZCARD', key), since(now - ARGV[1]), since(now), tonumber(first[2]), tonumber(last[2]), now,
  redis.call('PTTL', key)}

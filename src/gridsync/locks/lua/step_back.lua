#!lua flags=allow-oom
-- step_back: leave the barrier before it opened.
-- KEYS[1] here zset: party, by the server ms until which it counts as alive
-- KEYS[2] passed hash: party, "generation place" of what it passed, or "gone" if it gave up while a request of its own
-- was on its way
-- KEYS[3] when zset: party, by the server ms at which it passed, or until which such a request may come
-- ARGV[1] party string
-- ARGV[2] gone integer, ms: how long a request of this party's may still be on its way; it will be refused
-- Returns {1, generation, place} it opened before | {0, 0, 0} gone, or not there
-- Category idempotent
-- Cost O(log parties)
local P, T, me, gone = KEYS[2], KEYS[3], ARGV[1], tonumber(ARGV[2])
local passed = redis.call('HGET', P, me)
if passed and passed ~= 'gone' then
  local generation, place = string.match(passed, '^(%d+) (%d+)$')
  return {1, tonumber(generation), tonumber(place)}
end
redis.call('ZREM', KEYS[1], me)
if gone > 0 then
  local time = redis.call('TIME')
  local now = math.floor((time[1] * 1000000 + time[2]) / 1000)
  redis.call('ZADD', T, now + gone, me)
  redis.call('HSET', P, me, 'gone')
  for _, key in ipairs({P, T}) do
    if redis.call('PTTL', key) < gone then redis.call('PEXPIRE', key, gone) end
  end
end
return {0, 0, 0}

#!lua flags=allow-oom
-- step_back: leave the barrier before it opened.
-- KEYS[1] here zset: party, by the server ms until which it counts as alive
-- KEYS[2] passed hash: party, "generation place" of what it passed
-- ARGV[1] party string
-- Returns {1, generation, place} it opened before | {0, 0, 0} gone, or not there
-- Category idempotent
-- Cost O(log parties)
local passed = redis.call('HGET', KEYS[2], ARGV[1])
if passed then
  local generation, place = string.match(passed, '^(%d+) (%d+)$')
  return {1, tonumber(generation), tonumber(place)}
end
redis.call('ZREM', KEYS[1], ARGV[1])
return {0, 0, 0}

#!lua
-- carry: note at a mirror how far the groups of its source have got; a group that is consumed at the mirror has its own place.
-- KEYS[1] meta hash
-- KEYS[2] log stream
-- KEYS[3] mirror hash
-- KEYS[4] floors hash
-- ARGV[1] site string: the store that is mirrored
-- ARGV[2..] groups bytes: of each its name and the position up to which it has had everything
-- Returns 1 noted, 0 no mirror of that store
-- Category last-wins
-- Cost O(groups)
local meta, log, mirror, floors = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local state = redis.call('HMGET', meta, 'ro', 'pos')
if state[1] ~= 'mirror' or redis.call('HGET', mirror, 'site') ~= ARGV[1] then return 0 end
local here = {}
for _, row in ipairs(redis.call('EXISTS', log) == 1 and redis.call('XINFO', 'GROUPS', log) or {}) do
  for k = 1, #row, 2 do
    if row[k] == 'name' then here[row[k + 1]] = true end
  end
end
local clock = redis.call('TIME')
local now = clock[1] .. string.format('%03d', math.floor(clock[2] / 1000))
for k = 2, #ARGV, 2 do
  if not here[ARGV[k]] then
    redis.call('HSET', floors, ARGV[k], string.format('%.0f ', math.min(tonumber(ARGV[k + 1]), tonumber(state[2]))) .. now)
  end
end
return 1

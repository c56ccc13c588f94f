#!lua flags=allow-oom
-- tend: note how far the group surely has got, and remove consumers that died with nothing pending.
-- KEYS[1] log stream
-- KEYS[2] group hash
-- ARGV[1] group string
-- ARGV[2] dead_after integer, ms
-- Returns the floor: every event up to this position is acknowledged
-- Category idempotent
-- Cost O(consumers + groups)
local log, key, group, dead_after = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])
local function fields(flat)
  local map = {}
  for k = 1, #flat, 2 do map[flat[k]] = flat[k + 1] end
  return map
end
local pending = redis.call('XPENDING', log, group)
local floor
if pending[1] > 0 then
  floor = tonumber(string.match(pending[2], '^%d+')) - 1
else
  for _, row in ipairs(redis.call('XINFO', 'GROUPS', log)) do
    local info = fields(row)
    if info['name'] == group then floor = tonumber(string.match(info['last-delivered-id'], '^%d+')) end
  end
end
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', log, group)) do
  local info = fields(row)
  if info['pending'] == 0 and info['idle'] > dead_after then
    redis.call('XGROUP', 'DELCONSUMER', log, group, info['name'])
  end
end
redis.call('HSET', key, 'floor', floor)
return floor

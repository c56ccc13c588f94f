-- What is known of how far a group has got.
-- Before: log, group

-- {floor, undelivered, pending, when the oldest unsettled event was committed (us, 0: none), consumers with what they hold}
-- or nothing if there is no such group; what was removed from the log is not counted as undelivered.
local function progress()
  local function fields(flat)
    local map = {}
    for k = 1, #flat, 2 do map[flat[k]] = flat[k + 1] end
    return map
  end
  local function number(id) return tonumber(string.match(id, '^%d+')) end
  if redis.call('EXISTS', log) == 0 then return nil end
  local delivered
  for _, row in ipairs(redis.call('XINFO', 'GROUPS', log)) do
    local info = fields(row)
    if info['name'] == group then delivered = number(info['last-delivered-id']) end
  end
  if not delivered then return nil end
  local info, pending = fields(redis.call('XINFO', 'STREAM', log)), redis.call('XPENDING', log, group)
  local floor = pending[1] > 0 and number(pending[2]) - 1 or delivered
  local first, last = info['first-entry'], info['last-entry']
  -- Those that were erased behind it are not to come.
  local newest = number(last and last[1] or info['last-generated-id'])
  local before = first and number(first[1]) - 1 or newest
  local oldest = redis.call('XRANGE', log, (floor + 1) .. '-0', '+', 'COUNT', '1')[1]
  local since = oldest and fields(oldest[2])['w'] or '0'
  return floor, math.max(0, newest - math.max(delivered, before)), pending[1], since, pending[4] or {}
end

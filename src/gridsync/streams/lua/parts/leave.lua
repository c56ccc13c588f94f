-- What takes the groups off a log that becomes another one: each is made again where it surely had got to.
-- Before: log, floors

-- Notes how far each group has got, but not behind `last`.
local function note_groups(last)
  local clock = redis.call('TIME')
  local now = clock[1] .. string.format('%03d', math.floor(clock[2] / 1000))
  local notes, names, flat = {}, {}, redis.call('HGETALL', floors)
  for k = 1, #flat, 2 do
    if tonumber(string.match(flat[k + 1], '^%d+')) > last then notes[flat[k]] = last end
  end
  for n, row in ipairs(redis.call('EXISTS', log) == 1 and redis.call('XINFO', 'GROUPS', log) or {}) do
    local info = {}
    for k = 1, #row, 2 do info[row[k]] = row[k + 1] end
    local at = tonumber(string.match(info['last-delivered-id'], '^%d+'))
    if info['pending'] > 0 then at = tonumber(string.match(redis.call('XPENDING', log, info['name'])[2], '^%d+')) - 1 end
    notes[info['name']], names[n] = math.min(at, last), info['name']
  end
  for group, at in pairs(notes) do redis.call('HSET', floors, group, string.format('%.0f ', at) .. now) end
  return names
end

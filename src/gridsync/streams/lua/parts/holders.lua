-- What keeps events in the log: who has not had them all.
-- Before: log, meta, floors, places, readers, now

-- Calls hold(kind, name, position, seen) for each: all events up to that position were had; when it was seen last (ms,
-- 0: nobody knows).  Returns the readers whose time is over.
local function holders(hold)
  local noted = {}
  local flat = redis.call('HGETALL', floors)
  for k = 1, #flat, 2 do noted[flat[k]] = flat[k + 1] end
  for _, row in ipairs(redis.call('EXISTS', log) == 1 and redis.call('XINFO', 'GROUPS', log) or {}) do
    local info = {}
    for k = 1, #row, 2 do info[row[k]] = row[k + 1] end
    local name = info['name']
    local at = tonumber(string.match(info['last-delivered-id'], '^%d+'))
    -- What is parked, waits, or was given back is pending, too.
    if info['pending'] > 0 then at = tonumber(string.match(redis.call('XPENDING', log, name)[2], '^%d+')) - 1 end
    hold('group', name, at, tonumber(string.match(noted[name] or '', '^%d+ (%d+)') or 0))
    noted[name] = nil
  end
  -- A group that was lost comes back where it was; one that was expired will be told.
  for k = 1, #flat, 2 do
    local at, seen, expired = string.match(noted[flat[k]] or 'x', '^(%d+) (%d+)(.*)$')
    if at and expired == '' then hold('group', flat[k], tonumber(at), tonumber(seen)) end
  end
  flat = redis.call('HGETALL', places)
  for k = 1, #flat, 2 do hold('projection', flat[k], tonumber(string.match(flat[k + 1], '^%d+')), 0) end
  flat = redis.call('HGETALL', readers)
  local over = {}
  for k = 1, #flat, 2 do
    local kind, seen, lasts, at = string.match(flat[k + 1], '^(%a+) (%d+) (%d+) (%d+)')
    if lasts == '0' or now < tonumber(seen) + tonumber(lasts) then
      hold(kind, flat[k], tonumber(at), tonumber(seen))
    else
      over[#over + 1] = flat[k]
    end
  end
  local archived = redis.call('HGET', meta, 'archived')
  if archived then hold('archive', '', tonumber(archived), 0) end
  return over
end

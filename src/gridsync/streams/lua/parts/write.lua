-- What writes events to a stream and to the log.
-- Before: args, meta, versions, log, recent, about, time, link; recent is nil if a repeat is known by other means than ids

-- Returns version and position of the last one; event k begins at args[at + 3k].
local function write(stream, name, version, position, at, count)
  if link and position == 0 then redis.call('HSET', meta, 'log', 'link') end
  local format, v, p = string.format
  for k = at + 3, at + 3 * count, 3 do
    local id, type, data = args[k], args[k + 1], args[k + 2]
    version, position = version + 1, position + 1
    -- As text, once: a number that is given to a command is written out with all its digits, which takes as long as a lookup.
    v, p = format('%d', version), format('%d', position)
    -- The index first: should a key have a wrong type, all that is left behind is an entry that leads nowhere.
    if recent then redis.call('ZADD', recent, p, id .. '\0' .. name) end
    if about == '' then
      redis.call('XADD', stream, v .. '-0', 'i', id, 'p', p, 't', type, 'd', data, 'w', time)
    else
      redis.call('XADD', stream, v .. '-0', 'i', id, 'p', p, 't', type, 'd', data, 'w', time, 'm', about)
    end
    if link then
      redis.call('XADD', log, p .. '-0', 'i', id, 's', name, 'v', v, 't', type, 'w', time)
    elseif about == '' then
      redis.call('XADD', log, p .. '-0', 'i', id, 's', name, 'v', v, 't', type, 'd', data, 'w', time)
    else
      redis.call('XADD', log, p .. '-0', 'i', id, 's', name, 'v', v, 't', type, 'd', data, 'w', time, 'm', about)
    end
  end
  redis.call('HSET', versions, name, v)
  return version, position
end

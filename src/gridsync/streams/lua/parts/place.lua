-- What may be written to a stream, and what stands there already.
-- Before: args, log, recent

-- Version and position of the last of `count` events, if they stand after version `base`; event k begins at args[at + 3k].
local function standing(stream, base, at, count)
  local have = redis.call('XRANGE', stream, (base + 1) .. '-0', (base + count) .. '-0')
  if #have ~= count then return nil end
  for k = 1, count do
    if have[k][2][2] ~= args[at + 3 * k] then return nil end
  end
  return base + count, tonumber(have[count][2][4])
end

-- Which version of a stream has this position: where the log has lost it, the stream has not.
local function version_at(stream, version, position)
  local low, high = 1, version
  while low < high do
    local middle = math.floor((low + high) / 2)
    local event = redis.call('XRANGE', stream, middle .. '-0', '+', 'COUNT', '1')[1]
    if event and tonumber(event[2][4]) < position then low = middle + 1 else high = middle end
  end
  return low
end

-- 0 they may be written; 1 and where the last one stands; 2 and the version: a conflict; 3 and the version: there in part.
local function place(stream, name, expected, version, at, count)
  if version == expected or (version == 0 and expected == -1) then return 0 end
  if expected >= 0 then
    local last, position
    if version > expected then last, position = standing(stream, expected, at, count) end
    if last then return 1, last, position end
    return 2, version
  end
  if version == 0 then return 2, 0 end
  for k = 1, count do
    local id = args[at + 3 * k]
    local score = redis.call('ZSCORE', recent, id .. '\0' .. name)
    if score then
      local seen = redis.call('XRANGE', log, score .. '-0', score .. '-0')[1]
      if not seen or (seen[2][2] == id and seen[2][4] == name) then
        local last, position
        if k == 1 then
          local v = seen and tonumber(seen[2][6]) or version_at(stream, version, tonumber(score))
          last, position = standing(stream, v - 1, at, count)
        end
        if last then return 1, last, position end
        return 3, version
      end
    end
  end
  return 0
end

-- What takes the end off a stream: its beginning is copied step by step, and takes its place.  XDEL would not do: the next
-- event must get the number of one that went, and a stream never gives out a number again.
-- Before: temporary, the key of the copy; kept, the last number that stays; step

-- True once nothing is left behind `kept`.
local function cut(stream)
  local function last(key)
    local entry = redis.call('XREVRANGE', key, '+', '-', 'COUNT', '1')[1]
    return entry and tonumber(string.match(entry[1], '^%d+')) or 0
  end
  if last(stream) <= kept then
    redis.call('DEL', temporary)
    return true
  end
  -- A copy that an earlier attempt has left may go too far.
  if last(temporary) > kept then redis.call('DEL', temporary) end
  local from = last(temporary)
  local page = redis.call('XRANGE', stream, '(' .. from .. '-0', kept .. '-0', 'COUNT', step)
  for _, entry in ipairs(page) do redis.call('XADD', temporary, entry[1], unpack(entry[2])) end
  return #page < tonumber(step)
end

-- Lets the copy take the place of the stream, if there is anything to copy.
local function replace(stream)
  if redis.call('EXISTS', temporary) == 1 then
    redis.call('RENAME', temporary, stream)
  else
    local entry = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', '1')[1]
    if entry and tonumber(string.match(entry[1], '^%d+')) > kept then redis.call('DEL', stream) end
  end
end

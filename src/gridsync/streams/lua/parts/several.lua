-- What commits events to several streams of a store and checks others, all of it or nothing.
-- Before: args, about, total, window, mode; streams, the keys of the parts; meta, versions, log and recent, the store's keys;
-- spare, the part of its cap by which this may make the log larger than that

-- include parts/counters.lua

-- include parts/place.lua

-- The parts begin at args[at]: of each the stream's name, the expected version, how many events, and these.
-- Returns the answer if nothing is to be written: {1, version, position, ...} written before, {2, part, version} conflict,
-- {3, part, version} in part, {5} the log is at its cap; or nil and what fits.  Asking for a stream's length also notices a key of a wrong type.
local function examine(at)
  local fits, before, again, part, refused = {}, {1}, nil, nil, nil
  for k, stream in ipairs(streams) do
    local name, expected, count = args[at], tonumber(args[at + 1]), tonumber(args[at + 2])
    local version = tonumber(redis.call('HGET', versions, name) or 0)
    if (redis.call('XLEN', stream) > 0 and version == 0) or (position == 0 and redis.call('XLEN', log) > 0) then
      return redis.error_reply('INCONSISTENT ' .. name .. ' has events but its counters are gone; restore the keys of this store')
    end
    if count == 0 then
      if version ~= expected and (expected ~= -2 or version == 0) then refused = refused or {2, k, version} end
    else
      local code, last, there = place(stream, name, expected, version, at, count)
      again = again ~= false and code == 1
      if code == 0 then
        fits[#fits + 1] = {stream, name, version, at, count}
      elseif code == 1 then
        part = part or {3, k, version}
        before[#before + 1], before[#before + 2] = last, there
      else
        refused = refused or {code, k, version}
      end
    end
    at = at + 3 + 3 * count
  end
  -- A replay is one whatever has become of the streams that were only checked; a replay of a part is none.
  if closed and again == false then return closed end
  local answer = again and before or refused or part
  local over = kept[3] and total > 0 and position + total - kept[3] or 0
  if not answer and over > 0 and over > spare * redis.call('HGET', meta, 'cap') then answer = {5} end
  return answer, fits
end

local time

-- include parts/write.lua

-- Writes what fits, and adds version and position of each stream to the answer.
local function perform(fits, answer)
  local now = redis.call('TIME')
  time = now[1] .. string.format('%06d', now[2])
  for _, one in ipairs(fits) do
    local version
    version, position = write(one[1], one[2], one[3], position, one[4], one[5])
    answer[#answer + 1], answer[#answer + 2] = version, position
  end
  redis.call('HSET', meta, 'pos', position .. '')
  if position % 64 < total then redis.call('ZREMRANGEBYRANK', recent, '0', -window - 1) end
  return answer
end

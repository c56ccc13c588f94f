-- What counter_hit, counter_peek, counter_refund and look_kind share: how the counters of a key are kept, and what they hold.
-- Before: key, limit; window: its length, us; weighted: whether the window before counts as far as it overlaps.
-- They are a string: c<seen> <ahead> <start> <used> <before> <count> <hits>.  Times are us since 2025-01-01 on a clock
-- of the key's own, which is the server's plus `ahead` and never runs back; `seen` is when it was read last.  The window
-- began at `start` and holds `used`, the one before held `before`.  `hits` are the `count` newest,
-- <hit>,<start of its window>,<cost>; each.
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]
local seen, ahead, start, used, before, count, hits = 0, 0, -2 * window, 0, 0, 0, ''
local kept, stepped = redis.call('GET', key), false
if kept then
  local read = {string.match(kept, '^c(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ([%w,;]*)$')}
  if not read[1] then return redis.error_reply('WRONGTYPE the key holds no counters') end
  for i = 1, 6 do read[i] = tonumber(read[i]) end
  seen, ahead, start, used, before, count, hits = unpack(read)
  if now + ahead < seen then -- the server's clock was set back: go on from where we were
    ahead, stepped = seen - now, true
  end
end
now = now + ahead
if weighted and now >= start + window and now < start + 2 * window then
  start, used, before = start + window, 0, used
elseif now >= start + window then
  start, used, before = now, 0, 0
end

-- What a window that held `held` still counts `after` us into the one after it.
local function overlap(held, after) return math.ceil(held * (window - after) / window) end
-- How far into the window after it that is at most `room`, at the earliest.
local function shrunk(held, room)
  local after = math.max(0, window - math.floor(room * window / held))
  while after > 0 and overlap(held, after - 1) <= room do after = after - 1 end
  while overlap(held, after) > room do after = after + 1 end
  return after
end

local function left() return math.max(0, limit - used - overlap(before, now - start)) end

local function retry(cost)
  if cost > limit then return -1 end
  if left() >= cost then return 0 end
  if used + cost <= limit then return start + shrunk(before, limit - used - cost) - now end
  return start + window + (weighted and shrunk(used, limit - cost) or 0) - now
end

local function until_empty()
  if used > 0 then return start + (weighted and 2 or 1) * window - now end
  return before > 0 and start + window - now or 0
end

local function keep()
  local value = string.format('c%.0f %.0f %.0f %.0f %.0f %d ', now, ahead, start, used, before, count)
  -- Five seconds more than the window takes: a repeat still finds its first attempt.
  local life = start + (weighted and 2 or 1) * window - now
  redis.call('SET', key, value .. hits, 'PX', math.ceil(life / 1000) + 5000)
end

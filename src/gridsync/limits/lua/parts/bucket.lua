-- What gcra_hit, gcra_peek, gcra_refund and look_kind share: how a bucket is kept, and how full it is.
-- Before: key; p and q: a unit comes back in p/q us; burst: how many units a full bucket holds; all below 2^52.
-- A bucket is a string: b<seen> <ahead> <full> <part> <base> <base part> <last> <count> <hits>.  Times are us since
-- 2025-01-01 on a clock of the bucket's own, which is the server's plus `ahead` and never runs back; `seen` is when it
-- was read last.  The bucket is full again at full + part/q.  `hits` are the `count` newest,
-- <hit>,<when admitted>,<cost>; each, the newest of them at `last`; without them it would be full at base + base part/q.
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]
local seen, ahead, full, part, base, base_part, last, count, hits = 0, 0, 0, 0, 0, 0, 0, 0, ''
local kept, stepped = redis.call('GET', key), false
if kept then
  local read = {string.match(kept, '^b(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ([%w,;]*)$')}
  if not read[1] then return redis.error_reply('WRONGTYPE the key holds no bucket') end
  for i = 1, 8 do read[i] = tonumber(read[i]) end
  seen, ahead, full, part, base, base_part, last, count, hits = unpack(read)
  -- Under another rule the parts were smaller ones.  All of them were less than a microsecond.
  if part >= q then full, part = full + 1, 0 end
  if base_part >= q then base, base_part = base + 1, 0 end
  if now + ahead < seen then -- the server's clock was set back: go on from where we were
    ahead, stepped = seen - now, true
  end
end
now = now + ahead
if count > 0 then
  -- Under another rule it may have taken longer to fill up: it is empty at most, as of the newest hit.
  local most, rest = last + math.floor(burst * p / q), burst * p % q
  if full > most or full == most and part > rest then full, part = most, rest end
end

-- After a hit that is admitted at `at`, a bucket that would be full at a + b/q is full at the result.
local function poured(a, b, at, cost)
  if at > a then a, b = at, 0 end
  b = b + cost * p
  return a + math.floor(b / q), b % q
end

-- When the bucket holds `cost`, at the earliest, and not before who came earlier; the cost is at most the burst.
local function holds(cost)
  local a, b = full, part
  if now > a then a, b = now, 0 end
  return math.max(last, a + math.ceil((b + (cost - burst) * p) / q))
end

local function left()
  if last > now then return 0 end -- somebody is still to come
  if now > full then return burst end
  return math.max(0, math.floor((burst * p - (full - now) * q - part) / p))
end

local function until_full()
  return math.max(0, full - now + (part > 0 and 1 or 0))
end

local function keep()
  local format = 'b%.0f %.0f %.0f %.0f %.0f %.0f %.0f %d '
  local value = string.format(format, now, ahead, full, part, base, base_part, last, count)
  -- Five seconds more than it takes to fill up: a repeat still finds its first attempt.
  redis.call('SET', key, value .. hits, 'PX', math.ceil(until_full() / 1000) + 5000)
end

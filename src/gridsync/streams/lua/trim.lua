#!lua flags=allow-oom
-- trim: remove the oldest events of the log that nobody needs any more, and tell who needs the next one.
-- KEYS[1] log stream
-- KEYS[2] meta hash
-- KEYS[3] floors hash
-- KEYS[4] places hash
-- KEYS[5] readers hash
-- KEYS[6] holes zset
-- ARGV[1] keep integer, events: the newest that stay; -1: no matter how many
-- ARGV[2] age integer, us: what is younger stays; -1: no matter how old
-- ARGV[3] step integer, events: the most to remove; 0 only to look
-- ARGV[4] expire integer, ms: a group that is in the way and was silent for so long is given up; -1: never
-- ARGV[5] room integer, events: so many more are to fit under the cap, by its policy; 0 only what the limits say
-- Returns {how many were removed, the first and last that are there, up to where could be removed, up to where the limits
-- would remove, {kind, name, position, last seen (ms) of each who has not had them all, ...}, {groups given up}, how many events are in
-- the log, the cap (0: none)}
-- Category idempotent
-- Cost O(removed + groups + projections + readers + log step)
local log, meta, floors, places, readers = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local keep, age, step, expire = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local kept = redis.call('HMGET', meta, 'cap', 'on_cap', 'pos')
local cap, policy = tonumber(kept[1] or 0), kept[2]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- include parts/holders.lua
local function at(range, from, to)
  local entry = redis.call(range, log, from, to, 'COUNT', '1')[1]
  return entry and tonumber(string.match(entry[1], '^%d+')), entry
end
local first, last = at('XRANGE', '-', '+') or 0, at('XREVRANGE', '+', '-') or 0
local wanted = keep >= 0 and math.max(0, last - keep) or 0
local function old(position)
  local _, entry = at('XRANGE', position .. '-0', '+')
  for k = 1, #entry[2], 2 do
    if entry[2][k] == 'w' then return tonumber(entry[2][k + 1]) <= clock[1] * 1000000 + clock[2] - age end
  end
  return false
end
if age >= 0 and wanted < last then
  -- Of so many as one step may remove, the last one that is too old: whoever looks again looks further.
  local low, high = math.max(wanted, first - 1), math.min(last, math.max(wanted, first - 1) + math.max(step, 1000))
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if old(middle) then low = middle else high = middle - 1 end
  end
  wanted = math.max(wanted, low)
end
-- What has to go for the cap; and a tenth of it more, if nobody needs that, so that the next append finds room at once.
local must, over_cap = 0, cap > 0 and tonumber(ARGV[5]) > 0 and redis.call('XLEN', log) + ARGV[5] - cap or 0
if over_cap > 0 then
  must = first - 1 + over_cap
  wanted = math.max(wanted, must + math.floor(cap / 10))
end
local rows, others = {}, last - 1
local over = holders(function(kind, name, position, seen)
  -- It reads on in the archive, which must have them.
  if policy == 'spill' and must > 0 and (kind == 'projection' or kind == 'reader') then position = math.max(position, wanted) end
  if kind ~= 'group' then others = math.min(others, position) end
  rows[#rows + 1] = {kind, name, position, seen}
end)
-- The newest event stays: it is what readers prove their place by.
local floor, told, given_up, notes = last - 1, {}, {}, {}
for _, row in ipairs(rows) do
  local kind, name, position, seen = unpack(row)
  -- For the cap, only if that helps: not while somebody else is in the way, too.
  local pressed = policy == 'expire_group' and position < must and others >= must
  local silent = expire >= 0 and position < wanted and seen > 0 and now - seen > expire
  if kind == 'group' and (pressed or silent) then
    given_up[#given_up + 1] = name
    notes[name] = string.format('%.0f %.0f expired', position, seen)
  else
    -- Should it be lost now, it is to be known that it has had what goes.
    if kind == 'group' then notes[name] = string.format('%.0f %.0f', position, seen > 0 and seen or now) end
    if position < last then told[#told + 1] = {kind, name, position, seen} end
    floor = math.min(floor, position)
  end
end
local upto, removed = math.min(wanted, floor, first - 1 + step), 0
if step > 0 then
  for _, group in ipairs(given_up) do redis.call('XGROUP', 'DESTROY', log, group) end
  for group, note in pairs(notes) do redis.call('HSET', floors, group, note) end
  if #over > 0 then redis.call('HDEL', readers, unpack(over)) end
  if upto >= first and first > 0 then
    removed = redis.call('XTRIM', log, 'MINID', string.format('%.0f-0', upto + 1))
    redis.call('HSET', meta, 'trimmed', string.format('%.0f', upto))
    redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', string.format('%.0f', upto))
    if cap > 0 then redis.call('HSET', meta, 'full', string.format('%.0f', kept[3] + cap - redis.call('XLEN', log))) end
    first = upto + 1
  end
end
return {removed, first, last, floor, wanted, told, given_up, redis.call('XLEN', log), cap}

#!lua flags=allow-oom
-- take: become the owner of a partition that is free, and of everything that is pending there.
-- KEYS[1] log stream
-- KEYS[2] retry zset
-- KEYS[3] failed hash
-- KEYS[4] waiting zset
-- KEYS[5] lease hash
-- ARGV[1] group string
-- ARGV[2] member string
-- ARGV[3] ttl integer, ms
-- ARGV[4] generation string: go on taking over under this one; empty to begin with the next
-- ARGV[5] token string: of whoever begins with the next generation, who may give it back by this
-- Returns {1, generation, whether more is to be taken over, ids whose event is gone}, or {0, ms until it is free at the latest, the member that has it}, or {-1, 0, the member that has it since}
-- Category idempotent
-- Cost O(deliveries taken over), at most 4000 a call
local log, retry, failed, waiting, lease = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, member, generation = ARGV[1], ARGV[2], ARGV[4]
-- include parts/settled.lua
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local pending = redis.call('XPENDING', log, group)
local held = redis.call('HMGET', lease, 'm', 'g', 't')
if generation ~= '' then
  if held[1] ~= member or held[2] ~= generation then return {-1, 0, held[1] or ''} end
else
  -- One of the same name is this member itself, before it was restarted or before a reply was lost.
  if held[1] and held[1] ~= member and tonumber(held[3]) > now then return {0, held[3] - now, held[1]} end
  -- A lease that was evicted or deleted begins with the clock, above everything it may have counted to before.
  generation = string.format('%.0f', (held[2] or now) + 1)
  redis.call('HSET', lease, 'm', member, 'g', generation, 't', now + ARGV[3], 's', now, 'p', '0', 'a', ARGV[5],
    'o', member .. '.' .. generation)
end
local consumer, room, gone = member .. '.' .. generation, 4000, {}
for _, row in ipairs(pending[4] or {}) do
  local ids = row[1] ~= '~parked' and row[1] ~= consumer and
    redis.call('XPENDING', log, group, '-', '+', math.min(1000, room) .. '', row[1]) or {}
  while #ids > 0 do
    room = room - #ids
    local words = {'XCLAIM', log, group, consumer, '0'}
    for _, entry in ipairs(ids) do words[#words + 1] = entry[1] end
    words[#words + 1] = 'JUSTID'
    local moved, at = redis.call(unpack(words)), 1
    for _, entry in ipairs(ids) do
      if moved[at] == entry[1] then
        at = at + 1
      else
        settled(entry[1])
        gone[#gone + 1] = entry[1]
      end
    end
    if room == 0 then return {1, generation, 1, gone} end
    ids = redis.call('XPENDING', log, group, '-', '+', math.min(1000, room) .. '', row[1])
  end
  if row[1] ~= '~parked' and row[1] ~= consumer then redis.call('XGROUP', 'DELCONSUMER', log, group, row[1]) end
end
return {1, generation, 0, gone}

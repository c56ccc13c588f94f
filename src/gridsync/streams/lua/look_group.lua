#!lua flags=no-writes
-- look_group: say how far a consumer group has got and who is in it, for people.
-- KEYS[1] log stream
-- KEYS[2] retry zset
-- KEYS[3] waiting zset
-- KEYS[4] dead stream
-- ARGV[1] group string
-- ARGV[2] most integer, consumers
-- Returns {undelivered (-1: no such group), pending, age of the oldest unsettled event in us (-1: none), parked, waiting,
-- given back, dead, consumers, {{name, pending, idle ms}, ...}}
-- Category read
-- Cost O(consumers + groups)
local log, retry, waiting, dead, group, most = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], tonumber(ARGV[2])
-- include parts/progress.lua
local floor, undelivered, pending, since, holding = progress()
local letters = redis.call('XLEN', dead)
if not floor then return {-1, 0, -1, 0, 0, 0, letters, 0, {}} end
local clock = redis.call('TIME')
local age = since == '0' and -1 or math.max(0, clock[1] * 1000000 + clock[2] - since)
local free = 0
for _, row in ipairs(holding) do
  if row[1] == '~free' then free = tonumber(row[2]) end
end
local count, some = 0, {}
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', log, group)) do
  -- By name: what follows differs between versions.
  local info = {}
  for k = 1, #row, 2 do info[row[k]] = row[k + 1] end
  if string.sub(info['name'], 1, 1) ~= '~' then
    count = count + 1
    if count <= most then some[count] = {info['name'], info['pending'], info['idle']} end
  end
end
return {undelivered, pending, age, redis.call('ZCARD', retry), redis.call('ZCARD', waiting), free, letters, count, some}

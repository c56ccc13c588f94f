#!lua
-- restore: write events that were exported, at their positions and versions, or find them there.
-- KEYS[1] meta hash
-- KEYS[2] versions hash
-- KEYS[3] log stream
-- KEYS[4] recent zset
-- KEYS[5] erased hash
-- KEYS[6] holes zset
-- KEYS[7..] streams stream: those of the events
-- ARGV[1] window integer, events
-- ARGV[2] dry flag: write nothing
-- ARGV[3] mode string: what a store without events becomes: link if its log only says where the payloads are, else empty
-- ARGV[4..] events bytes: of each which of the streams, its position, how many words its fields are, and these as in the log; of one that was erased only x, s and v
-- Returns {how many are new, how many were there}, or {-1, the position of the first that cannot be there}, {-5, 0} the log is at its cap
-- Category idempotent
-- Cost O(log window) per event
local meta, versions, log, recent = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local last = tonumber(redis.call('HGET', meta, 'pos') or 0)
local link = (last > 0 and redis.call('HGET', meta, 'log') or ARGV[3]) == 'link'
local position, at, there, version, new = last, 4, 0, {}, {}
while at <= #ARGV do
  local stream, p, count = KEYS[6 + ARGV[at]], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local field = {}
  for k = at + 3, at + 2 + count, 2 do field[ARGV[k]] = ARGV[k + 1] end
  local v = tonumber(field['v'])
  if p <= last then
    -- The stream tells, for the log may have forgotten it.
    local gone = field['x'] and v <= tonumber(redis.call('HGET', KEYS[5], field['s']) or 0)
    local event = redis.call('XRANGE', stream, v .. '-0', v .. '-0')[1]
    local flat, same = event and event[2] or {}, {}
    for k = 1, #flat, 2 do same[flat[k]] = flat[k + 1] end
    if not gone and (same['i'] ~= field['i'] or tonumber(same['p']) ~= p or same['w'] ~= field['w']) then return {-1, p} end
    there = there + 1
  else
    local before = version[stream] or tonumber(redis.call('HGET', versions, field['s']) or 0)
    if p ~= position + 1 or v ~= before + 1 or redis.call('XLEN', stream) > 0 and before == 0 then return {-1, p} end
    version[stream], position = v, p
    new[#new + 1] = {stream, at, count, field}
  end
  at = at + 3 + count
end
local closed = #new > 0 and redis.call('HMGET', meta, 'ro', 'epoch')
if closed and closed[1] then return redis.error_reply('READONLYSTORE ' .. closed[1] .. ' ' .. (closed[2] or '0')) end
if ARGV[2] == '1' then return {#new, there} end
local full = #new > 0 and redis.call('HGET', meta, 'full')
if full and position > tonumber(full) then return {-5, 0} end
for _, one in ipairs(new) do
  local stream, from, count, field = one[1], one[2], one[3], one[4]
  local p, words = ARGV[from + 1], {'i', field['i'], 'p', ARGV[from + 1]}
  for k = from + 3, from + 2 + count, 2 do
    if not string.find('isv', ARGV[k], 1, true) then words[#words + 1], words[#words + 2] = ARGV[k], ARGV[k + 1] end
  end
  if field['x'] then
    -- Nothing stands there, here neither.
    redis.call('ZADD', KEYS[6], p, p .. ' ' .. field['v'] .. ' ' .. field['s'])
    redis.call('HSET', KEYS[5], field['s'], field['v'])
  else
    redis.call('ZADD', recent, p, field['i'] .. '\0' .. field['s'])
    redis.call('XADD', stream, field['v'] .. '-0', unpack(words))
    if link then
      redis.call('XADD', log, p .. '-0', 'i', field['i'], 's', field['s'], 'v', field['v'], 't', field['t'], 'w', field['w'])
    else
      redis.call('XADD', log, p .. '-0', unpack(ARGV, from + 3, from + 2 + count))
    end
  end
  redis.call('HSET', versions, field['s'], field['v'])
end
if link and last == 0 and #new > 0 then redis.call('HSET', meta, 'log', 'link') end
redis.call('HSET', meta, 'pos', string.format('%.0f', position))
redis.call('ZREMRANGEBYRANK', recent, '0', -ARGV[1] - 1)
return {#new, there}

#!lua flags=allow-oom
-- pull: deliver new events to the owner of a partition, and to nobody else.
-- KEYS[1] log stream
-- KEYS[2] failed hash
-- KEYS[3] lease hash
-- ARGV[1] group string
-- ARGV[2] owner string: the member, a dot and the generation
-- ARGV[3] count integer, deliveries
-- ARGV[4] pulls string: how many pulls of this generation the caller knows to have delivered something
-- Returns {0, pulls} if another one has, which was late or whose answer was lost, {1, whether events have failed, {{id, fields}, ...}, the id that was delivered last}, or {-1} if it is another's
-- Category never
-- Cost O(count), and O(groups) if nothing is new
local log, group = KEYS[1], ARGV[1]
local lease = redis.call('HMGET', KEYS[3], 'o', 'p')
if lease[1] ~= ARGV[2] then return {-1} end
if lease[2] ~= ARGV[4] then return {0, lease[2]} end
local reply = redis.call('XREADGROUP', 'GROUP', group, ARGV[2], 'COUNT', ARGV[3], 'STREAMS', log, '>')
local entries = reply and reply[1][2] or {}
local last = #entries > 0 and entries[#entries][1]
if last then
  redis.call('HINCRBY', KEYS[3], 'p', '1')
else
  for _, row in ipairs(redis.call('XINFO', 'GROUPS', log)) do
    local info = {}
    for k = 1, #row, 2 do info[row[k]] = row[k + 1] end
    if info['name'] == group then last = info['last-delivered-id'] end
  end
end
return {1, redis.call('EXISTS', KEYS[2]), entries, last}

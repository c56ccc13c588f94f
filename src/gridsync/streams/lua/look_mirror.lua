#!lua flags=no-writes
-- look_mirror: say whether a store takes events, whose mirror it is and how far it has got.
-- KEYS[1] meta hash
-- KEYS[2] log stream
-- KEYS[3] mirror hash
-- KEYS[4] floors hash
-- ARGV[1] position integer, events: up to there somebody has had them
-- Returns {site, epoch, ro, last position, the site that it mirrors, the epoch of that one, the checkpoint of what it has of that one,
-- the checkpoint of the newest event (0: none), the server's time in us, when the first event behind the position was committed in us (0: none), {what is noted of each group, ...}}
-- Category read
-- Cost O(1)
local function checkpoint(entry)
  local field = {}
  for k = 1, #entry[2], 2 do field[entry[2][k]] = entry[2][k + 1] end
  return string.match(entry[1], '^%d+') .. ':' .. (field.w or '') .. ':' .. (field.i or ''), tonumber(field.w or 0)
end
local kept = redis.call('HMGET', KEYS[1], 'site', 'epoch', 'ro', 'pos')
local noted = redis.call('HMGET', KEYS[3], 'site', 'epoch', 'at')
if kept[4] and not tonumber(kept[4]) then return redis.error_reply('PARTITIONED this store is in several partitions') end
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', '1')[1]
local next = redis.call('XRANGE', KEYS[2], '(' .. ARGV[1] .. '-0', '+', 'COUNT', '1')[1]
local clock = redis.call('TIME')
local _, since = checkpoint(next or {'0', {}})
return {
  kept[1] or '', tonumber(kept[2] or 0), kept[3] or '', tonumber(kept[4] or 0), noted[1] or '', tonumber(noted[2] or 0),
  noted[3] or '', newest and checkpoint(newest) or '0', clock[1] * 1000000 + clock[2], since,
  redis.call('HGETALL', KEYS[4]),
}

-- What a script that writes events begins with: the last position, whether the log keeps payloads as the caller believes,
-- as kept[3] the last position that may be given out, if there is a cap, and whether the store takes events at all.
-- Before: meta; mode, empty for payloads in the log, link for only where they are
local kept = redis.call('HMGET', meta, 'pos', 'log', 'full', 'ro', 'epoch')
local position, link = tonumber(kept[1] or 0), mode == 'link'
if not position then return redis.error_reply('PARTITIONED this store is in several partitions') end
if position > 0 and (kept[2] or '') ~= mode then
  return redis.error_reply('OTHERLOG this store was begun with log=' .. (kept[2] or 'copy'))
end
-- The answer for new events; what was written before the store was closed is told first.
local closed = kept[4] and redis.error_reply('READONLYSTORE ' .. kept[4] .. ' ' .. (kept[5] or '0'))

-- What a script that writes events begins with: the last position, and whether the log keeps payloads as the caller believes.
-- Before: meta; mode, empty for payloads in the log, link for only where they are
local kept = redis.call('HMGET', meta, 'pos', 'log')
local position, link = tonumber(kept[1] or 0), mode == 'link'
if not position then return redis.error_reply('PARTITIONED this store is in several partitions') end
if position > 0 and (kept[2] or '') ~= mode then
  return redis.error_reply('OTHERLOG this store was begun with log=' .. (kept[2] or 'copy'))
end

#!lua
-- promote: let a mirror, or a store that was fenced, take events, in a new epoch.
-- KEYS[1] meta hash
-- KEYS[2] mirror hash
-- ARGV[1] epoch integer, promotions: the new one
-- ARGV[2] token string: of this promotion
-- Returns {1, epoch, position} promoted, now or before by the same token; {0, epoch, position} it took events already; {2, epoch, position} it has seen that epoch
-- Category idempotent
-- Cost O(1)
local meta, mirror = KEYS[1], KEYS[2]
local kept = redis.call('HMGET', meta, 'ro', 'epoch', 'promoted', 'pos')
local epoch, position = tonumber(kept[2] or 0), tonumber(kept[4] or 0)
if not position then return redis.error_reply('PARTITIONED this store is in several partitions') end
if not kept[1] then return {kept[3] == ARGV[2] and 1 or 0, epoch, position} end
local seen = math.max(epoch, tonumber(redis.call('HGET', mirror, 'epoch') or 0))
if tonumber(ARGV[1]) <= seen then return {2, seen, position} end
redis.call('HSET', meta, 'epoch', ARGV[1], 'promoted', ARGV[2], 'pos', position .. '')
redis.call('HDEL', meta, 'ro')
redis.call('DEL', mirror)
return {1, tonumber(ARGV[1]), position}

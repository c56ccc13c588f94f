#!lua
-- fence: let a store take no more events.
-- KEYS[1] meta hash
-- ARGV[1] seen integer, promotions: the epoch that it is believed to be in
-- ARGV[2] epoch integer, promotions: the one that it is fenced for, at least the former
-- Returns {0, epoch} it takes none, {1, epoch} it is in a newer epoch and was left alone, {2, epoch} it is a mirror, which takes none
-- Category idempotent
-- Cost O(1)
local kept = redis.call('HMGET', KEYS[1], 'ro', 'epoch', 'pos')
local epoch = tonumber(kept[2] or 0)
if kept[3] and not tonumber(kept[3]) then return redis.error_reply('PARTITIONED this store is in several partitions') end
if kept[1] == 'mirror' then return {2, epoch} end
-- A call that comes late must not close what was promoted since.
if not kept[1] and epoch ~= tonumber(ARGV[1]) then return {1, epoch} end
-- Fenced by request it may be opened again; superseded, another store takes the events in a newer epoch.
local why = (kept[1] == 'superseded' or tonumber(ARGV[2]) > epoch) and 'superseded' or 'fenced'
epoch = math.max(epoch, tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'ro', why, 'epoch', epoch .. '', 'pos', kept[3] or '0')
return {0, epoch}

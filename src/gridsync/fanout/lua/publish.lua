#!lua
-- publish: append to the history of a channel, and tell every process that listens.
-- KEYS[1] state hash: e epoch, o the last offset, m its mark; lives for life after the last look
-- KEYS[2] history stream: <offset>-0 with m mark, i id, k key, d payload
-- KEYS[3] ids zset: id of a publication -> its offset, for the newest
-- ARGV[1] token string: unlike any other's, also that of the same publication by another call
-- ARGV[2] life integer, ms
-- ARGV[3] id string: two publications with one id are one
-- ARGV[4] key string: what the payload is about, or nothing
-- ARGV[5] payload bytes
-- ARGV[6] live string: the channel that is published on
-- ARGV[7] size integer, publications: as many are kept
-- ARGV[8] keep integer, ms: so long they are, after the last one
-- ARGV[9] window integer, publications: so many ids are known
-- ARGV[10] window_ms integer, ms: so long they are, after the last one
-- Returns {1 published | 0 it was before, epoch, offset, mark or nothing if it is not known any more}
-- Category idempotent
-- Cost O(log window + size of the payload)
local M, L, I, token, life = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2]
local id, key, payload, live = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
-- include parts/channel.lua
local first = redis.call('ZSCORE', I, id)
if first then
  local entry = redis.call('XRANGE', L, first .. '-0', first .. '-0')[1]
  return {0, epoch, tonumber(first), entry and entry[2][2] or ''}
end
local offset = string.format('%.0f', tonumber(top) + 1)
-- Each mark follows from the one before: the same mark means the same history, though a failover may lose some of it and
-- other publications take its offsets.
local prev = mark
mark = string.sub(redis.sha1hex(prev .. ' ' .. token .. ' ' .. now_us), 1, 16)
redis.call('XADD', L, 'MAXLEN', ARGV[7], offset .. '-0', 'm', mark, 'i', id, 'k', key, 'd', payload)
redis.call('PEXPIRE', L, ARGV[8])
redis.call('HSET', M, 'o', offset, 'm', mark)
redis.call('ZADD', I, offset, id)
redis.call('ZREMRANGEBYRANK', I, 0, -1 - tonumber(ARGV[9]))
redis.call('PEXPIRE', I, ARGV[10])
local head = table.concat({'1', epoch, offset, mark, prev, #id, #key}, ' ')
-- Whoever may not publish, or finds the channel elsewhere, has told the history: listeners look by themselves.
redis.pcall(string.sub(live, 1, 1) == '{' and 'SPUBLISH' or 'PUBLISH', live, head .. '\n' .. id .. key .. payload)
return {1, epoch, tonumber(offset), mark}

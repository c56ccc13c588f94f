#!lua flags=allow-oom
-- due: hand parked deliveries whose time has come to this consumer, longest due first.
-- KEYS[1] log stream
-- KEYS[2] retry zset
-- KEYS[3] failed hash
-- KEYS[4] waiting zset
-- ARGV[1] group string
-- ARGV[2] consumer string
-- ARGV[3] count integer, deliveries
-- Returns {ms until the next is due (-1: none), {{id, fields, times begun}, ...}, {ids whose event is gone}}
-- Category never
-- Cost O(count log pending)
local log, retry, failed, waiting, group, consumer = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], ARGV[2]
-- include parts/settled.lua
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local entries, gone = {}, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', retry, '-inf', now, 'LIMIT', '0', ARGV[3])) do
  local pending = redis.call('XPENDING', log, group, id, id, '1')[1]
  redis.call('ZREM', retry, id)
  if not pending then
    settled(id)
  elseif pending[2] == '~parked' then
    local entry = redis.call('XCLAIM', log, group, consumer, '0', id, 'RETRYCOUNT', pending[4])[1]
    if entry then
      entries[#entries + 1] = {id, entry[2], pending[4]}
    else
      settled(id)
      gone[#gone + 1] = id
    end
  end
end
local head = redis.call('ZRANGE', retry, '0', '0', 'WITHSCORES')
if head[2] then
  -- What failed in the future did so before the clock was set back: its pause of seconds would last for hours.
  local last = tonumber(string.match(redis.call('HGET', failed, head[1]) or '', '^%d+ (%d+)') or 0)
  if last > now then
    redis.call('ZADD', retry, now, head[1])
    head[2] = now
  end
end
return {head[2] and math.max(0, head[2] - now) or -1, entries, gone}

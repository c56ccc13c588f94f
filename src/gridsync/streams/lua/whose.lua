#!lua
-- whose: tell who has a partition, and what is left to do there.
-- KEYS[1] log stream
-- KEYS[2] lease hash
-- ARGV[1] group string
-- Returns {member (empty: nobody), generation, ms since it took it, ms until its lease ends, pending, events not yet delivered}
-- Category read
-- Cost O(groups)
local log, lease, group = KEYS[1], KEYS[2], ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local held = redis.call('HMGET', lease, 'm', 'g', 's', 't')
local pending, delivered = 0, 0
for _, row in ipairs(redis.call('EXISTS', log) == 1 and redis.call('XINFO', 'GROUPS', log) or {}) do
  local info = {}
  for k = 1, #row, 2 do info[row[k]] = row[k + 1] end
  if info['name'] == group then
    pending, delivered = info['pending'], tonumber(string.match(info['last-delivered-id'], '^%d+'))
  end
end
local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', '1')[1]
local lag = math.max(0, (newest and tonumber(string.match(newest[1], '^%d+')) or 0) - delivered)
return {held[1] or '', held[2] or '0', now - (held[3] or now), (held[4] or now) - now, pending, lag}

-- What takes away members that were not renewed, a hundred at a time.
-- Before: `H` who is here, `A` what they tell about themselves.
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local absent = redis.call('ZRANGEBYSCORE', H, '-inf', now_ms, 'LIMIT', 0, 100)
if #absent > 0 then
  redis.call('ZREM', H, unpack(absent))
  redis.call('HDEL', A, unpack(absent))
end

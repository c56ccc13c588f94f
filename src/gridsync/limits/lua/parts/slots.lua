-- What slot_hit, slot_peek and look_kind share: how many slots are taken, and when they will be free.
-- Before: key, limit.
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]
local after = string.format('(%.0f', now) -- who holds until now holds no more
local taken = redis.call('ZCOUNT', key, after, '+inf')

local function retry(cost)
  if cost > limit then return -1 end
  local lacking = taken + cost - limit
  if lacking <= 0 then return 0 end
  return tonumber(redis.call('ZRANGEBYSCORE', key, after, '+inf', 'WITHSCORES', 'LIMIT', lacking - 1, 1)[2]) - now
end

local function until_free()
  local last = redis.call('ZREVRANGE', key, '0', '0', 'WITHSCORES')[2]
  return last and math.max(0, tonumber(last) - now) or 0
end

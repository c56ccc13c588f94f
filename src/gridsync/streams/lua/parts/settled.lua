-- What ack, bury, due and claim share: what becomes of all that was noted about a delivery, now that it is settled.
-- Before: retry, failed and waiting, the keys.
-- settled(id) forgets that it failed; if events of its stream wait behind it, the first is due now, or at the end of its
-- own pause if it failed before, and it returns true.
local function settled(id)
  local key = redis.call('HGET', failed, 'h' .. id)
  redis.call('HDEL', failed, id, 'h' .. id, 'w' .. id)
  redis.call('ZREM', retry, id)
  if not key or redis.call('HGET', failed, 'k' .. key) ~= id then return false end
  local line = string.format('%03d', #key) .. key
  local first = redis.call('ZRANGEBYLEX', waiting, '[' .. line .. '0', '(' .. line .. ':', 'LIMIT', '0', '1')[1]
  if not first then
    redis.call('HDEL', failed, 'k' .. key)
    return false
  end
  -- It stands in the way of the rest until it is settled in its turn, so their order is kept.
  local heir = string.match(string.sub(first, -16), '^0*(%d+)$') .. '-0'
  redis.call('ZREM', waiting, first)
  redis.call('ZADD', retry, redis.call('HGET', failed, 'w' .. heir) or '0', heir)
  redis.call('HDEL', failed, 'w' .. heir)
  redis.call('HSET', failed, 'k' .. key, heir, 'h' .. heir, key)
  return true
end

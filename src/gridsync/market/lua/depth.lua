#!lua flags=no-writes
-- depth: what is wanted and offered at the best prices.
-- KEYS[1] versions hash
-- KEYS[2] buy zset
-- KEYS[3] sell zset
-- KEYS[4] book hash
-- ARGV[1] name string: of the stream
-- ARGV[2] levels integer, prices of each side
-- ARGV[3] terms string: tick and lot
-- Returns {0, sequence, {price, quantity, ...} wanted, {price, quantity, ...} offered} | {3, terms} the book has others
-- Category read
-- Cost O(log orders) per level
local book = KEYS[4]
local terms = redis.call('HGET', book, 'terms')
if terms and terms ~= ARGV[3] then return {3, terms} end

local function side(key, letter, sign)
  local prices, fields, from = {}, {}, '-inf'
  for k = 1, tonumber(ARGV[2]) do
    local next = redis.call('ZRANGE', key, from, '+inf', 'BYSCORE', 'LIMIT', '0', '1', 'WITHSCORES')[2]
    if not next then break end
    prices[k] = string.format('%d', sign * next)
    fields[k] = letter .. ':' .. prices[k]
    from = '(' .. next
  end
  local found = {}
  for k, quantity in ipairs(#fields > 0 and redis.call('HMGET', book, unpack(fields)) or {}) do
    found[2 * k - 1], found[2 * k] = prices[k], quantity
  end
  return found
end

return {0, tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0), side(KEYS[2], 'b', -1), side(KEYS[3], 's', 1)}

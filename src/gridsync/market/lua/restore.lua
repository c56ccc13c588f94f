#!lua
-- restore: write a book anew whose keys are gone, of what its events say; nobody can use it before the last step.
-- KEYS[1] versions hash
-- KEYS[2..] parts any: buy and sell, sorted sets; book, a hash; expiry, a sorted set; seen, a hash; meta of the store, a hash
-- ARGV[1] name string: of the stream
-- ARGV[2] version integer, events: what is written is made of so many
-- ARGV[3] token string: of who writes it
-- ARGV[4] step string: begin, write or end
-- ARGV[5] terms string: tick and lot
-- ARGV[6..] writes string: three words each: the number of a key, and score and member, or field and value
-- Returns {0} done | {1, version} there are more events | {2} there is a book | {3} another one writes it
-- Category idempotent
-- Cost O(writes), O(1) to begin and to end
local book, token, step = KEYS[4], ARGV[3], ARGV[4]
local there = redis.call('HMGET', book, 'terms', 'restored', 'restoring')
-- A repeat of the last step, or a late copy of another one.
if there[1] then return there[2] == token and {0} or {2} end
-- More events would come to a mirror, and not into the book.
local closed = redis.call('HMGET', KEYS[7], 'ro', 'epoch')
if closed[1] then return redis.error_reply('READONLYSTORE ' .. closed[1] .. ' ' .. (closed[2] or '0')) end
local version = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
if version ~= tonumber(ARGV[2]) then return {1, version} end
if step == 'begin' then
  if there[3] ~= token then
    -- What is left of it is no book; how orders ended is true all the same.
    for k = 2, 5 do redis.call('UNLINK', KEYS[k]) end
    redis.call('HSET', book, 'restoring', token)
  end
elseif there[3] ~= token then
  return {3}
elseif step == 'write' then
  for k = 6, #ARGV, 3 do
    local n = tonumber(ARGV[k])
    redis.call(n == 4 and 'HSET' or n == 6 and 'HSETNX' or 'ZADD', KEYS[n], ARGV[k + 1], ARGV[k + 2])
  end
else
  redis.call('HSET', book, 'terms', ARGV[5], 'restored', token)
  redis.call('HDEL', book, 'restoring')
end
return {0}

#!lua
-- arrive: come to the barrier or look whether it opened; the last party to come opens it for all of them.
-- KEYS[1] state hash: p parties, g generation, b why it is broken
-- KEYS[2] here zset: party, by the server ms until which it counts as alive
-- KEYS[3] passed hash: party, "generation place" of what it passed, or "gone" if it gave up while a request of its own
-- was on its way
-- KEYS[4] when zset: party, by the server ms at which it passed, or until which such a request may come
-- ARGV[1] party string
-- ARGV[2] parties integer, count
-- ARGV[3] joined integer, generation: the one that this party has come to, -1 if it comes now
-- ARGV[4] alive integer, ms: how long this party counts as alive
-- ARGV[5] ttl integer, ms: how long the barrier is kept after its last use, at least twice `alive`
-- ARGV[6] wake_prefix string: a party listens on this plus the first 12 characters of its name
-- ARGV[7] repeat_us integer, us
-- Returns {1 passed | 0 wait, generation, place, again} | {2 broken, generation, why, again} | {3 other number, 0, parties,
-- again}; again is 1 if an earlier attempt may still be on its way, else 0
-- Category idempotent
-- Cost O(log parties), and O(parties) when it opens or breaks
local S, A, P, T = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local me, joined, alive = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local again = tonumber(ARGV[7]) > 0 and 1 or 0
local passed = redis.call('HGET', P, me)
if passed == 'gone' then return {2, joined, 'this party has given up', again} end
if passed then
  local generation, place = string.match(passed, '^(%d+) (%d+)$')
  return {1, tonumber(generation), tonumber(place), again}
end
redis.call('HSETNX', S, 'p', ARGV[2])
redis.call('PEXPIRE', S, ARGV[5])
local parties = redis.call('HGET', S, 'p')
if parties ~= ARGV[2] then return {3, 0, tonumber(parties), again} end
local generation, broken = tonumber(redis.call('HGET', S, 'g') or '0'), redis.call('HGET', S, 'b')
if broken then return {2, generation, broken, again} end
if joined >= 0 and joined ~= generation then
  return {2, joined, 'it was reset, or this party stood still for too long', again}
end
local function wake()
  local command = string.sub(ARGV[6], 1, 1) == '{' and 'SPUBLISH' or 'PUBLISH'
  local all = redis.call('ZRANGE', A, 0, -1)
  for _, party in ipairs(all) do redis.pcall(command, ARGV[6] .. string.sub(party, 1, 12), party) end
  redis.call('DEL', A)
  return all
end
local time = redis.call('TIME')
local now = math.floor((time[1] * 1000000 + time[2]) / 1000)
redis.call('ZADD', A, now + alive, me)
redis.call('PEXPIRE', A, ARGV[5])
local dead = redis.call('ZRANGEBYSCORE', A, '-inf', now, 'LIMIT', 0, 1)[1]
if dead then
  broken = 'a party died: ' .. dead
  redis.call('HSET', S, 'b', broken)
  wake()
  return {2, generation, broken, again}
end
local place = redis.call('ZCARD', A)
if place < tonumber(parties) then return {0, generation, place, again} end
-- Whoever passed has looked, or asked again after a lost reply, long before it would count as dead.  Read before the
-- first write: a foreign value there must not let some pass and not others.
local long_gone = redis.call('ZRANGEBYSCORE', T, '-inf', now - 2 * alive, 'LIMIT', 0, 1000)
for n, party in ipairs(wake()) do
  redis.call('HSET', P, party, string.format('%d %d', generation, n))
  redis.call('ZADD', T, now, party)
end
for _, party in ipairs(long_gone) do
  redis.call('HDEL', P, party)
  redis.call('ZREM', T, party)
end
redis.call('PEXPIRE', P, ARGV[5])
redis.call('PEXPIRE', T, ARGV[5])
redis.call('HSET', S, 'g', generation + 1)
return {1, generation, tonumber(string.match(redis.call('HGET', P, me), '%d+$')), again}

#!lua
-- fetch: read an entry, and let one caller load what is missing, or due.
-- KEYS[1] entry string: a header line, then the value; lives as long as it may be served
-- KEYS[2] load hash: o who loads it, w<token> who waits for that; lives as long as the loader's lease
-- ARGV[1] token string: who asks
-- ARGV[2] lease integer, ms
-- ARGV[3] early integer, thousandths: so many times the time that its load took before it is stale, it is due
-- ARGV[4] dead string: the id of an entry that counts as missing, or nothing
-- Returns {0, entry} fresh | {1, entry} this caller loads it | {2, entry} another one does | {3, ms} another one does, and
--   has its lease for so long; an entry that is not fresh is one that may be served, or nothing
-- Category idempotent
-- Cost O(size of the entry)
local E, L, token = KEYS[1], KEYS[2], ARGV[1]
local entry = redis.call('GET', E)
if entry then
  local id, took, stale = string.match(entry, '^1[vn] (%S+) (%d+) (%d+)')
  if not id or id == ARGV[4] then
    entry = false
  else
    local left = redis.call('PTTL', E) - tonumber(stale)
    if left > 0 and left * 1000 > tonumber(took) * tonumber(ARGV[3]) then return {0, entry} end
  end
end
local owner = redis.call('HGET', L, 'o')
if not owner or owner == token then
  redis.call('HSET', L, 'o', token)
  redis.call('PEXPIRE', L, ARGV[2])
  return {1, entry or ''}
end
if entry then return {2, entry} end
redis.call('HSET', L, 'w' .. token, '')
return {3, redis.call('PTTL', L)}

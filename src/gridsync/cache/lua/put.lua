#!lua
-- put: store what was loaded, unless it was deleted, set, or left to another loader meanwhile.
-- KEYS[1] entry string: a header line, then the value; lives as long as it may be served
-- KEYS[2] load hash: o who loads it, w<token> who waits for that; lives as long as the loader's lease
-- ARGV[1] token string: the loader, and the id of the entry
-- ARGV[2] entry string
-- ARGV[3] life integer, ms
-- ARGV[4] wake_prefix string: a waiter listens on this plus the first 12 characters of its token
-- Returns 1 stored | 0 not
-- Category idempotent
-- Cost O(size of the entry + waiters)
local E, L, token, wake = KEYS[1], KEYS[2], ARGV[1], ARGV[4]
-- include parts/waiters.lua
if redis.call('HGET', L, 'o') ~= token then
  -- A repeat finds what it stored.
  local there = redis.call('GET', E)
  return there and string.sub(there, 4, 3 + #token) == token and 1 or 0
end
redis.call('SET', E, ARGV[2], 'PX', ARGV[3])
over(L)
return 1

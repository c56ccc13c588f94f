#!lua
-- yield: load no longer, so that another caller may.
-- KEYS[1] load hash: o who loads it, w<token> who waits for that; lives as long as the loader's lease
-- ARGV[1] token string
-- ARGV[2] wake_prefix string: a waiter listens on this plus the first 12 characters of its token
-- Returns 1 if it was this caller's to load, else 0
-- Category idempotent
-- Cost O(waiters)
local L, wake = KEYS[1], ARGV[2]
-- include parts/waiters.lua
if redis.call('HGET', L, 'o') ~= ARGV[1] then return 0 end
over(L)
return 1

#!lua
-- set: store entries; whoever is loading one of them comes too late.
-- KEYS[1..] entry string, and after each its load hash
-- ARGV[1] wake_prefix string: a waiter listens on this plus the first 12 characters of its token
-- ARGV[2..] entry string, and after each its life in ms
-- Returns how many
-- Category last-wins
-- Cost O(size of the entries + waiters)
local wake = ARGV[1]
-- include parts/waiters.lua
for k = 1, #KEYS, 2 do
  redis.call('SET', KEYS[k], ARGV[k + 1], 'PX', ARGV[k + 2])
  over(KEYS[k + 1])
end
return #KEYS / 2

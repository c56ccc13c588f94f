#!lua flags=allow-oom
-- drop: delete entries; what is being loaded for one of them is not stored.
-- KEYS[1..] entry string, and after each its load hash
-- ARGV[1] wake_prefix string: a waiter listens on this plus the first 12 characters of its token
-- Returns how many there were
-- Category last-wins
-- Cost O(entries + waiters)
local wake = ARGV[1]
-- include parts/waiters.lua
local there = 0
for k = 1, #KEYS, 2 do
  there = there + redis.call('DEL', KEYS[k])
  over(KEYS[k + 1])
end
return there

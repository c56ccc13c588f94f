#!lua
-- break_barrier: break it for all who wait and who come, or let the next generation begin.
-- KEYS[1] state hash: p parties, g generation, b why it is broken, x the last orders
-- KEYS[2] here zset: party, by the server ms until which it counts as alive
-- ARGV[1] order string: a repeat of the same is done once
-- ARGV[2] why string: empty to mend it
-- ARGV[3] parties integer, count
-- ARGV[4] ttl integer, ms
-- ARGV[5] wake_prefix string: a party listens on this plus the first 12 characters of its name
-- Returns how many waited
-- Category idempotent
-- Cost O(parties)
local S, A = KEYS[1], KEYS[2]
local orders = redis.call('HGET', S, 'x') or ''
if string.find(' ' .. orders, ' ' .. ARGV[1] .. ' ', 1, true) then return 0 end
redis.call('HSETNX', S, 'p', ARGV[3])
-- Several: another's order may come between one whose reply was lost and its repeat.
redis.call('HSET', S, 'x', string.sub(ARGV[1] .. ' ' .. orders, 1, 200))
if ARGV[2] == '' then
  redis.call('HDEL', S, 'b')
  redis.call('HINCRBY', S, 'g', 1)
else
  redis.call('HSET', S, 'b', ARGV[2])
end
redis.call('PEXPIRE', S, ARGV[4])
local command = string.sub(ARGV[5], 1, 1) == '{' and 'SPUBLISH' or 'PUBLISH'
local all = redis.call('ZRANGE', A, 0, -1)
for _, party in ipairs(all) do redis.pcall(command, ARGV[5] .. string.sub(party, 1, 12), party) end
redis.call('DEL', A)
return #all

#!lua
-- open: note in how many partitions a new store is, or say in how many an old one is.
-- KEYS[1] directory hash: the meta hash that the store would have in one partition
-- ARGV[1] count integer, partitions
-- ARGV[2] by string: what decides which partition a stream is in
-- Returns {pos, partitions, by}; of a store in one partition only pos
-- Category idempotent
-- Cost O(1)
local directory = KEYS[1]
-- Other fields may be there before the first event is: a cap, or how far an archive is.
if redis.call('HEXISTS', directory, 'pos') == 0 then
  -- No number: who takes it for a store in one partition cannot count on from it.
  redis.call('HSET', directory, 'pos', 'in ' .. ARGV[1] .. ' partitions', 'partitions', ARGV[1], 'by', ARGV[2])
end
return redis.call('HMGET', directory, 'pos', 'partitions', 'by')

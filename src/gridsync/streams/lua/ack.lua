#!lua flags=allow-oom
-- ack: take handled deliveries off the pending list, if they are still this consumer's.
-- KEYS[1] log stream
-- KEYS[2] retry zset
-- KEYS[3] failed hash
-- KEYS[4] waiting zset
-- ARGV[1] group string
-- ARGV[2] consumer string
-- ARGV[3..] ids string
-- Returns for each id 1 acknowledged, 2 the same and what waited behind it is due now, 0 not pending (acknowledged
-- before), -1 delivered to another consumer since
-- Category idempotent
-- Cost O(log pending) per id
local log, retry, failed, waiting, group, consumer = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], ARGV[2]
-- include parts/settled.lua
local some_failed = redis.call('EXISTS', failed) == 1
local codes = {}
for k = 3, #ARGV do
  local id = ARGV[k]
  local pending = redis.call('XPENDING', log, group, id, id, '1')[1]
  if pending and pending[2] ~= consumer then
    codes[k - 2] = -1
  else
    codes[k - 2] = pending and redis.call('XACK', log, group, id) or 0
    if some_failed and settled(id) then codes[k - 2] = 2 end
  end
end
return codes

#!lua flags=allow-oom
-- ack: take handled deliveries off the pending list, if they are still this consumer's.
-- KEYS[1] log stream
-- ARGV[1] group string
-- ARGV[2] consumer string
-- ARGV[3..] ids string
-- Returns for each id 1 acknowledged, 0 not pending (acknowledged before), -1 delivered to another consumer since
-- Category idempotent
-- Cost O(log pending) per id
local log, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local codes = {}
for k = 3, #ARGV do
  local id = ARGV[k]
  local pending = redis.call('XPENDING', log, group, id, id, 1)[1]
  if not pending then
    codes[k - 2] = 0
  elseif pending[2] ~= consumer then
    codes[k - 2] = -1
  else
    redis.call('XACK', log, group, id)
    codes[k - 2] = 1
  end
end
return codes

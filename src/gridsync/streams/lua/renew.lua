#!lua flags=allow-oom
-- renew: say that deliveries are being worked on, so that nobody claims them; only those that are still ours.
-- KEYS[1] log stream
-- ARGV[1] group string
-- ARGV[2] consumer string
-- ARGV[3..] ids string
-- Returns the ids that are no longer this consumer's
-- Category idempotent
-- Cost O(log pending) per id
local log, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local lost = {}
for k = 3, #ARGV do
  local id = ARGV[k]
  local pending = redis.call('XPENDING', log, group, id, id, 1)[1]
  if pending and pending[2] == consumer then
    -- JUSTID leaves the delivery count alone.
    redis.call('XCLAIM', log, group, consumer, 0, id, 'IDLE', 0, 'JUSTID')
  else
    lost[#lost + 1] = id
  end
end
return lost

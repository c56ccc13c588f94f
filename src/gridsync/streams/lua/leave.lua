#!lua flags=allow-oom
-- leave: give back what a consumer still holds, then remove the consumer; nothing pending is ever destroyed.
-- KEYS[1] log stream
-- ARGV[1] group string
-- ARGV[2] consumer string
-- ARGV[3..] unhandled string: ids that others may claim at once, each with how often it was begun before, for this
-- time does not count; the rest keep the time since their delivery
-- Returns how many deliveries it still holds: call again until 0
-- Category idempotent
-- Cost O(pending of this consumer), at most 1000 a call
local log, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local unhandled = {}
for k = 3, #ARGV, 2 do unhandled[ARGV[k]] = ARGV[k + 1] end
local pending = redis.call('XPENDING', log, group, '-', '+', '1000', consumer)
for _, entry in ipairs(pending) do
  local id, idle = entry[1], entry[3]
  if unhandled[id] then
    redis.call('XCLAIM', log, group, '~free', '0', id, 'TIME', '1', 'RETRYCOUNT', unhandled[id], 'JUSTID')
  else
    redis.call('XCLAIM', log, group, '~free', '0', id, 'IDLE', idle, 'JUSTID')
  end
end
local left = redis.call('XPENDING', log, group, '-', '+', '1000', consumer)
-- DELCONSUMER would destroy what is pending, so only an empty consumer is removed.
if #left == 0 then redis.call('XGROUP', 'DELCONSUMER', log, group, consumer) end
return #left

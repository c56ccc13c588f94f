#!lua flags=allow-oom
-- meet: say that a member lives and which partitions it has, or that it leaves; and hear of the others.
-- KEYS[1] members hash
-- ARGV[1] member string
-- ARGV[2] ttl integer, ms: how long it counts as alive; 0 to leave
-- ARGV[3] has string: the partitions that it has, separated by commas
-- ARGV[4] token string: its ear
-- ARGV[5] wake_prefix string: a member listens on this plus the first 12 characters of its token
-- Returns {ms until another member counts as dead (-1: none), member, what it has, ...}
-- Category idempotent
-- Cost O(members)
local members, me, ttl, prefix = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[5]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local rows = redis.call('HGETALL', members)
local answer, others, changed, before = {-1}, {}, false, nil
for k = 1, #rows, 2 do
  local till, token, has = string.match(rows[k + 1], '^(%d+) (%S+) (.*)$')
  if rows[k] == me then
    before = token .. ' ' .. has
  elseif tonumber(till) <= now then
    redis.call('HDEL', members, rows[k])
    changed = true
  else
    others[#others + 1] = token
    answer[1] = answer[1] < 0 and till - now or math.min(answer[1], till - now)
    answer[#answer + 1], answer[#answer + 2] = rows[k], has
  end
end
if ttl == 0 then
  changed = redis.call('HDEL', members, me) == 1 or changed
else
  redis.call('HSET', members, me, string.format('%.0f', now + ttl) .. ' ' .. ARGV[4] .. ' ' .. ARGV[3])
  redis.call('PEXPIRE', members, math.max(redis.call('PTTL', members), 2 * ttl))
  changed = changed or before ~= ARGV[4] .. ' ' .. ARGV[3]
  answer[#answer + 1], answer[#answer + 2] = me, ARGV[3]
end
if changed then
  local publish = string.sub(prefix, 1, 1) == '{' and 'SPUBLISH' or 'PUBLISH'
  for _, token in ipairs(others) do redis.call(publish, prefix .. string.sub(token, 1, 12), token) end
end
return answer

#!lua
-- present: tell how many members are present, and who some of them are.
-- KEYS[1] here zset: member -> until when it counts, server ms
-- KEYS[2] about hash: member -> what it tells about itself
-- ARGV[1] limit integer, members
-- Returns {how many, {member, about, ...}}
-- Category idempotent
-- Cost O(limit * log of all)
local H, A = KEYS[1], KEYS[2]
-- include parts/absent.lua
local members = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', H, '(' .. now_ms, '+inf', 'LIMIT', 0, ARGV[1])) do
  members[#members + 1] = member
  members[#members + 1] = redis.call('HGET', A, member) or ''
end
return {redis.call('ZCOUNT', H, '(' .. now_ms, '+inf'), members}

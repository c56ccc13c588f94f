#!lua
-- rewind: take the events behind a position off the log of a store that was superseded, and out of what is counted.
-- KEYS[1] meta hash
-- KEYS[2] log stream
-- KEYS[3] temporary stream: the copy on its way
-- KEYS[4] recent zset
-- KEYS[5] floors hash
-- KEYS[6] holes zset
-- KEYS[7..] done zset: what groups have committed
-- ARGV[1] kept integer, events: the last position that stays, 0 for none
-- ARGV[2] step integer, events: the most to copy
-- Returns 1 done, 0 to be called again, -1 this store takes events or mirrors another one
-- Category idempotent
-- Cost O(step + groups)
local meta, log, temporary, recent, floors = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local kept, step = tonumber(ARGV[1]), ARGV[2]
local state = redis.call('HMGET', meta, 'ro', 'pos')
if state[1] ~= 'fenced' and state[1] ~= 'superseded' then return -1 end
if tonumber(state[2]) <= kept then return 1 end
-- include parts/cut.lua

-- include parts/leave.lua

if not cut(log) then return 0 end
note_groups(kept)
redis.call('ZREMRANGEBYSCORE', KEYS[6], '(' .. kept, '+inf')
for k = 7, #KEYS do redis.call('ZREMRANGEBYSCORE', KEYS[k], '(' .. kept, '+inf') end
redis.call('ZREMRANGEBYSCORE', recent, '(' .. kept, '+inf')
replace(log)
redis.call('HSET', meta, 'pos', kept .. '')
return 1

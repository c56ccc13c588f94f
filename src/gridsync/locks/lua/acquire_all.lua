#!lua
-- acquire_all: take several locks that are free and have no queue, or none of them.
-- The same owners asking again are granted again, with the same fences.
-- KEYS[1..] locks any: of each lock the state hash, the queue zset, the fence string and the gone zset, as in acquire
-- ARGV[1] lease integer, ms
-- ARGV[2] about string: who that is, for others to read
-- ARGV[3] fence_ttl integer, ms
-- ARGV[4] repeat_us integer, us
-- ARGV[5..] owners string: one for each lock
-- Returns {1, again, fence..} | {0, again, which one cannot be taken, from 1}; again is 1 if an earlier attempt may still
-- be on its way, else 0
-- Category idempotent
-- Cost O(locks)
local locks = #KEYS / 4
local again = tonumber(ARGV[4]) > 0 and 1 or 0
for n = 1, locks do
  local S, Q, G, me = KEYS[4 * n - 3], KEYS[4 * n - 2], KEYS[4 * n], ARGV[4 + n]
  local owner = redis.call('HGET', S, 'o')
  if owner ~= me and (owner or redis.call('EXISTS', Q) == 1 or redis.call('ZSCORE', G, me)) then
    return {0, again, n}
  end
end
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local answer = {1, again}
for n = 1, locks do
  local S, F, me = KEYS[4 * n - 3], KEYS[4 * n - 1], ARGV[4 + n]
  local fence = redis.call('HGET', S, 't')
  if not fence then
    -- Hybrid clock: rises with every holder even if this key was lost, evicted or not replicated.
    fence = string.format('%.0f', math.max(us, tonumber(redis.call('GET', F) or '0') + 1))
    redis.call('SET', F, fence, 'PX', ARGV[3])
    redis.call('HSET', S, 'o', me, 't', fence, 's', string.format('%.0f', math.floor(us / 1000)), 'm', ARGV[2])
  end
  redis.call('PEXPIRE', S, ARGV[1])
  answer[2 + n] = tonumber(fence)
end
return answer

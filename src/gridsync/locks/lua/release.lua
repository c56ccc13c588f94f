#!lua flags=allow-oom
-- release: give the lock back and hand it to the next living waiter that can hear; for a waiter: leave the queue.
-- A lock that nobody holds any more is handed on as well.
-- The hand-over is written into the state, with its fence and a short expiry; the message is only a hint, and carries
-- what the next one needs to begin at once.  Whom it was handed to has left the queue.  Whoever cannot hear is passed
-- over: a dead process has no connection.  If nobody hears, it is the first one's turn all the same.  Where order does
-- not matter the lock is free, and the next one is told to come and ask.
-- KEYS[1] state hash: o owner, t fence, s since when in server ms, m about the owner; lives as long as the lease
-- KEYS[2] queue zset: waiter, by ticket: the server us of its arrival
-- KEYS[3] alive hash: waiter, to "<the server ms until which it counts as alive> <about it>"
-- KEYS[4] fence string: the last fence given out
-- KEYS[5] gone zset: owner that gave up while a request of its own was on its way, by the server ms until which it may be
-- ARGV[1] owner string
-- ARGV[2] claim integer, ms: how long the next one has to take up what it is handed
-- ARGV[3] fence_ttl integer, ms
-- ARGV[4] wake_prefix string: a waiter listens on this plus the first 12 characters of its name
-- ARGV[5] patience integer, ms: how long a waiter may be overtaken; 0 is first come first served
-- ARGV[6] gone integer, ms: how long a request of this owner's may still be on its way; it will be refused
-- ARGV[7] repeat_us integer, us
-- Returns {1 released | 0 was not held by this owner | 2 not held now, but an earlier attempt may have released it,
-- message..}: a message to a waiter of the owner's own process is not published but left to the caller
-- Category idempotent
-- Cost O(log waiters), plus O(log waiters) for each waiter that is dead or cannot hear
local S, Q, W, F, G = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local me, claim, patience, gone = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5]), tonumber(ARGV[6])
local process = string.sub(me, 1, 12)
local code, owner = 1, redis.call('HGET', S, 'o')
local head = redis.call('ZRANGE', Q, '0', '0')[1]
local us, now
if head or gone > 0 then
  local time = redis.call('TIME')
  us = time[1] * 1000000 + time[2]
  now = math.floor(us / 1000)
end
if gone > 0 then
  redis.call('ZREMRANGEBYSCORE', G, '-inf', now)
  redis.call('ZADD', G, now + gone, me)
  redis.call('PEXPIRE', G, gone)
end
if owner ~= me then
  redis.call('ZREM', Q, me)
  redis.call('HDEL', W, me)
  code = tonumber(ARGV[7]) > 0 and 2 or 0
  -- An earlier reply may have been lost, and with it the word for a waiter of the same process.
  if owner then return string.sub(owner, 1, 12) == process and {code, owner} or {code} end
  -- Nobody holds it: whoever gives up now may have been the only one who knew that it was its turn.
  head = redis.call('ZRANGE', Q, '0', '0')[1]
end
if not head then
  -- Only if nobody is there: while a Cluster slot moves, a key that was deleted counts as moved and takes no HSET.
  redis.call('DEL', S)
  return {code}
end
local sharded = string.byte(ARGV[4]) == 123
local heir, first, passed, deaf = nil, nil, {}, {}
while not heir and head do
  local alive_ms, about = string.match(redis.call('HGET', W, head) or '0 ', '^(%d+) (.*)$')
  if tonumber(alive_ms) <= now then
    redis.call('ZREM', Q, head)
    redis.call('HDEL', W, head)
  else
    local home = string.sub(head, 1, 12)
    if home ~= process and not deaf[home] then
      -- Asked before anything is said: a word that gave the lock must reach nobody but the one who has it.
      local heard = redis.pcall('PUBSUB', sharded and 'SHARDNUMSUB' or 'NUMSUB', ARGV[4] .. home)
      deaf[home] = heard[2] == 0
    end
    local found = {head, about, home}
    if deaf[home] then
      first = first or found
      passed[#passed + 1] = {head, string.format('%.0f', math.min(alive_ms, now + claim)) .. ' ' .. about}
    else
      heir = found
    end
  end
  head = redis.call('ZRANGE', Q, #passed, #passed)[1]
end
-- Who was passed over keeps its place for as long as it would have had to take the lock up.
if heir then for _, each in ipairs(passed) do redis.call('HSET', W, each[1], each[2]) end end
heir = heir or first
if not heir or patience > 0 then redis.call('DEL', S) end
if not heir then return {code} end
local word = heir[1]
if patience == 0 then
  local fence = string.format('%.0f', math.max(us, tonumber(redis.call('GET', F) or '0') + 1))
  redis.call('SET', F, fence, 'PX', ARGV[3])
  redis.call('HSET', S, 'o', heir[1], 't', fence, 's', string.format('%.0f', now), 'm', heir[2])
  redis.call('PEXPIRE', S, claim)
  redis.call('ZREM', Q, heir[1])
  redis.call('HDEL', W, heir[1])
  word = word .. ' ' .. fence .. ' ' .. string.format('%.0f', us) .. ' ' .. ARGV[2]
end
if heir[3] == process then return {code, word} end
redis.pcall(sharded and 'SPUBLISH' or 'PUBLISH', ARGV[4] .. heir[3], word)
return {code}

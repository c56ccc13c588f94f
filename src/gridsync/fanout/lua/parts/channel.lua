-- What is known of a channel, which is born here if it is not there: nothing of an earlier life is left then.
-- Before: `M` the state, `L` the history, `I` the ids, `token` the caller's, `life` in ms.
local now = redis.call('TIME')
local now_us = now[1] .. string.format('%06d', tonumber(now[2]))
local epoch, top, mark = unpack(redis.call('HMGET', M, 'e', 'o', 'm'))
if not epoch then
  redis.call('DEL', M, L, I)
  epoch = string.sub(redis.sha1hex(token .. ' ' .. now_us), 1, 12)
  top, mark = '0', epoch
  redis.call('HSET', M, 'e', epoch, 'o', top, 'm', mark)
  redis.call('PEXPIRE', M, life)
end
redis.call('PEXPIRE', M, life, 'GT')

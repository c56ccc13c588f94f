-- What hit_one, hit and lease do when an entry begins: from the twelfth on, entries forget their hits, and those of one tick
-- become one.
-- Before: key; now; tick, above 0; edge: entries after it are yet to come.
-- The oldest of a tick but the head goes, and its cost is counted with the next newer one.  There is more than one to do
-- after a queue of reservations, or under another resolution.
local log = redis.call('ZREVRANGEBYSCORE', key, edge, '-inf', 'WITHSCORES', 'LIMIT', '10', '3')
if log[5] and string.find(log[5], '%D') then
  log = redis.call('ZREVRANGEBYSCORE', key, edge, '-inf', 'WITHSCORES', 'LIMIT', '10', '1000')
end
for i = 3, #log, 2 do
  local member, score, newer = log[i], tonumber(log[i + 1]), tonumber(log[i - 1])
  local text, apart = string.match(member, '(%d+).?(%u?)')
  if member == text then break end
  if apart == '' or score <= now then -- what stands alone is left alone while its time is yet to come
    local keep = not log[i + 2] or newer - newer % tick > score or newer > now and string.find(log[i - 2], '^%d+.%u')
    if keep then redis.call('ZADD', key, score, text) end
    redis.call('ZREM', key, member)
  end
end

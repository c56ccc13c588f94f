#!lua
-- project: change a projection and note how far it has got, if it is still where the caller believes it to be.
-- KEYS[1] view hash
-- KEYS[2] places hash
-- ARGV[1] name string
-- ARGV[2] before string: the checkpoint it is believed to be at
-- ARGV[3] after string: the checkpoint that these changes lead to
-- ARGV[4..] changes bytes: set, add or remove; a field, each once; the value, empty to remove
-- Returns the checkpoint it is at: the new one if these changes are in it, now or before
-- Category idempotent
-- Cost O(changes)
local view, places, name, after = KEYS[1], KEYS[2], ARGV[1], ARGV[3]
local at = redis.call('HGET', places, name) or '0'
-- Already there, or somebody else has got further: either way nothing is to be done here.
if at ~= ARGV[2] then return at end
for k = 4, #ARGV, 3 do
  local old = ARGV[k] == 'add' and (redis.call('HGET', view, ARGV[k + 1]) or '0')
  if old and (not string.match(old, '^-?%d+$') or math.abs(old + ARGV[k + 2]) > 9007199254740991) then
    return redis.error_reply('NOTANUMBER ' .. ARGV[k + 1] .. ' of projection ' .. name .. ' cannot be added to')
  end
end
-- A view of a wrong type is noticed here at the latest, before the first write.
redis.call('HLEN', view)
for k = 4, #ARGV, 3 do
  local what, field, value = ARGV[k], ARGV[k + 1], ARGV[k + 2]
  if what == 'set' then
    redis.call('HSET', view, field, value)
  elseif what == 'add' then
    redis.call('HINCRBY', view, field, value)
  else
    redis.call('HDEL', view, field)
  end
end
redis.call('HSET', places, name, after)
return after

-- What changes the fields of a hash.
-- Before: args; view, the key
-- A change is three words: set, add or remove; a field, each once; the value, empty to remove.

-- The first field that cannot be added to; a key of a wrong type is noticed here, too, before the first write.
local function unfit(first, last)
  redis.call('HLEN', view)
  for k = first, last, 3 do
    local old = args[k] == 'add' and (redis.call('HGET', view, args[k + 1]) or '0')
    if old and (not string.match(old, '^-?%d+$') or math.abs(old + args[k + 2]) > 9007199254740991) then return args[k + 1] end
  end
end

local function change(first, last)
  for k = first, last, 3 do
    local what, field, value = args[k], args[k + 1], args[k + 2]
    if what == 'set' then
      redis.call('HSET', view, field, value)
    elseif what == 'add' then
      redis.call('HINCRBY', view, field, value)
    else
      redis.call('HDEL', view, field)
    end
  end
end

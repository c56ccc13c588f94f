-- What ends a load: nobody is its loader any more, and whoever waits for it is told to look again.
-- Before: `wake`, what a waiter's channel begins with.
local function over(load)
  local waiters = redis.call('HKEYS', load)
  redis.call('DEL', load)
  local command = string.sub(wake, 1, 1) == '{' and 'SPUBLISH' or 'PUBLISH'
  for _, field in ipairs(waiters) do
    local token = string.sub(field, 2)
    -- A waiter that cannot be told looks by itself.
    if string.sub(field, 1, 1) == 'w' then redis.pcall(command, wake .. string.sub(token, 1, 12), token) end
  end
end

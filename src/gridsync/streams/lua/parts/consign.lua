-- What puts events for other stores into outboxes.
-- Before: args, about; keys, of which those from the twelfth on are outboxes; sent, the key

-- Returns where each consignment begins, with its outbox, and what comes behind them; or an error.
local function packed(at, count)
  local found = {}
  for k = 1, count do
    local box = keys[11 + args[at]]
    if redis.call('XLEN', box) > 0 and redis.call('HEXISTS', sent, box) == 0 then
      return redis.error_reply('INCONSISTENT ' .. box .. ' holds what nobody has counted; restore the keys of this store')
    end
    found[k] = {box, at}
    at = at + 3 + 3 * args[at + 2]
  end
  return found, at
end

local function consign(found)
  local now = redis.call('TIME')
  now = now[1] .. string.format('%06d', now[2])
  for _, each in ipairs(found) do
    local box, at = each[1], each[2]
    local events = redis.call('HINCRBY', sent, '#' .. box, args[at + 2])
    local fields = {'s', args[at + 1], 'm', about, 'w', now, 'n', events - args[at + 2] .. ''}
    for k = at + 3, at + 3 * args[at + 2], 3 do
      for n, name in ipairs({'i', 't', 'd'}) do
        fields[#fields + 1], fields[#fields + 2] = name, args[k + n - 1]
      end
    end
    redis.call('XADD', box, redis.call('HINCRBY', sent, box, '1') .. '-0', unpack(fields))
  end
end

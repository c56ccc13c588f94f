#!lua flags=no-writes
-- look_store: say what an event store holds, for people.
-- KEYS[1] meta hash
-- KEYS[2] versions hash
-- KEYS[3] log stream
-- KEYS[4] recent zset
-- KEYS[5] sent hash
-- ARGV[1] sample integer, streams
-- ARGV[2] most integer, fields of sent
-- Returns {last position, how its log keeps events (empty: copies), events in the log, first position there, streams, bytes of these keys (-1: not told), {groups},
-- {some stream, its version, ...}, {an outbox, or # and an outbox, ...}}
-- Category read
-- Cost O(groups + sample + outboxes)
local meta, versions, log, recent = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local bytes, groups = 0, {}
for _, key in ipairs({meta, versions, log, recent}) do
  local size = redis.pcall('MEMORY', 'USAGE', key)
  -- It may not be permitted; a key that is not there has none.
  if type(size) == 'table' and size.err then bytes = -1 end
  if bytes >= 0 and type(size) == 'number' then bytes = bytes + size end
end
if redis.call('EXISTS', log) == 1 then
  for n, row in ipairs(redis.call('XINFO', 'GROUPS', log)) do
    for k = 1, #row, 2 do
      if row[k] == 'name' then groups[n] = row[k + 1] end
    end
  end
end
local first = redis.call('XRANGE', log, '-', '+', 'COUNT', '1')[1]
local kept = redis.call('HMGET', meta, 'pos', 'log')
if kept[1] and not tonumber(kept[1]) then return redis.error_reply('PARTITIONED this store is in several partitions') end
return {
  tonumber(kept[1] or 0), kept[2] or '', redis.call('XLEN', log),
  first and tonumber(string.match(first[1], '^%d+')) or 0, redis.call('HLEN', versions), bytes, groups,
  redis.call('HRANDFIELD', versions, ARGV[1], 'WITHVALUES'), redis.call('HRANDFIELD', KEYS[5], ARGV[2]),
}

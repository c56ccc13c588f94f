#!lua flags=allow-oom
-- release: forget one who keeps events in the log, with all that is kept for it.
-- KEYS[1] log stream
-- KEYS[2] meta hash
-- KEYS[3] floors hash
-- KEYS[4] places hash
-- KEYS[5] readers hash
-- KEYS[6..] own any: what else is kept for it
-- ARGV[1] kind string: group, projection, reader, replicator or archive
-- ARGV[2] name string
-- Returns 1 if it was known, else 0
-- Category idempotent
-- Cost O(size of what is kept for it)
local log, kind, name = KEYS[1], ARGV[1], ARGV[2]
local known
if kind == 'group' then
  known = redis.call('HDEL', KEYS[3], name)
  if redis.call('EXISTS', log) == 1 then known = math.max(known, redis.call('XGROUP', 'DESTROY', log, name)) end
elseif kind == 'archive' then
  known = redis.call('HDEL', KEYS[2], 'archived')
else
  known = redis.call('HDEL', kind == 'projection' and KEYS[4] or KEYS[5], name)
end
if #KEYS > 5 then redis.call('UNLINK', unpack(KEYS, 6)) end
return known

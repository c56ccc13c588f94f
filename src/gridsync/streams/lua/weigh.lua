#!lua flags=no-writes
-- weigh: say what keys take, for people.
-- KEYS[1..] streams stream
-- Returns their bytes together, -1 if the server may not tell
-- Category read
-- Cost O(keys)
local bytes = 0
for _, key in ipairs(KEYS) do
  local size = redis.pcall('MEMORY', 'USAGE', key)
  if type(size) == 'table' and size.err then return -1 end
  bytes = bytes + (size or 0)
end
return bytes

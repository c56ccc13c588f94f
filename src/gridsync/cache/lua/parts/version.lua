-- What gives a tag a version that it never had, though the request may be a late copy of one that was repeated.
-- Before: `token`, the caller's.
local function version()
  local now = redis.call('TIME')
  return string.format('%s.%s%06d', token, now[1], tonumber(now[2]))
end

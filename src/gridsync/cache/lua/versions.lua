#!lua
-- versions: read the versions of tags, and give one to each that has none.
-- KEYS[1..] tag string: its version; what was stored under it ends with it
-- ARGV[1] token string
-- ARGV[2] life integer, ms
-- Returns the versions
-- Category idempotent
-- Cost O(tags)
local token, versions = ARGV[1], {}
-- include parts/version.lua
for k, tag in ipairs(KEYS) do
  local there = redis.call('GET', tag)
  if not there then
    there = version()
    redis.call('SET', tag, there, 'PX', ARGV[2])
  elseif redis.call('PTTL', tag) < tonumber(ARGV[2]) then
    -- For twice as long: whoever keeps copies is told of each change to the tag, and this one means nothing.
    redis.call('PEXPIRE', tag, string.format('%.0f', 2 * ARGV[2]))
  end
  versions[k] = there
end
return versions

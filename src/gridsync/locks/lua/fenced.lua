#!lua
-- fenced: run commands unless a larger fence was seen here, and remember the largest.
-- A repeat is known by the id of the write: it finds that it was done, also when the first one arrives late.
-- KEYS[1] mark string: the largest fence seen
-- KEYS[2] done string: what became of this write, empty or the error of a command; named after the write's id
-- KEYS[3..] targets any: what the commands touch, in the slot of the mark
-- ARGV[1] fence integer, fence
-- ARGV[2] mark_ttl integer, ms
-- ARGV[3] done_ttl integer, ms: longer than any repeat can be under way
-- ARGV[4..] commands string: for each command the number of its words, then its words
-- Returns 0 applied, now or by an earlier attempt | the larger fence that was seen, nothing applied; or the error of
-- the command that failed, those before it applied
-- Category idempotent
-- Cost O(1) plus that of the commands
local mark, done = KEYS[1], KEYS[2]
local before = redis.call('GET', done)
if before then return before == '' and 0 or redis.error_reply(before) end
local seen = redis.call('GET', mark)
if seen and tonumber(seen) > tonumber(ARGV[1]) then return tonumber(seen) end
redis.call('SET', mark, ARGV[1], 'PX', ARGV[2])
redis.call('SET', done, '', 'PX', ARGV[3])
local at = 4
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  local reply = redis.pcall(unpack(ARGV, at + 1, at + words))
  if type(reply) == 'table' and reply.err then
    redis.call('SET', done, reply.err, 'PX', ARGV[3])
    return redis.error_reply(reply.err)
  end
  at = at + words + 1
end
return 0

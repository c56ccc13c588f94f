#!lua
-- fenced: run commands unless a later holder has written here, and remember who wrote.
-- The later of two holders has the larger fence, or the larger name beside the same fence: each side of a split network
-- may grant the lock in the same microsecond.  A repeat is known by the id of the write: it finds that it was done,
-- also when the first one arrives late.
-- KEYS[1] mark string: fence and owner of the latest holder that wrote, a space between them; without an owner if it
-- was written before owners were remembered: then everybody with that fence is as late
-- KEYS[2] done string: what became of this write, empty or the error of a command; named after the write's id
-- KEYS[3..] targets any: what the commands touch, in the slot of the mark
-- ARGV[1] fence integer, fence
-- ARGV[2] owner string
-- ARGV[3] mark_ttl integer, ms
-- ARGV[4] done_ttl integer, ms: longer than any repeat can be under way
-- ARGV[5..] commands string: for each command the number of its words, then its words
-- Returns 0 applied, now or by an earlier attempt | the fence of a later holder that wrote, nothing applied; or the
-- error of the command that failed, those before it applied
-- Category idempotent
-- Cost O(1) plus that of the commands
local mark, done = KEYS[1], KEYS[2]
local before = redis.call('GET', done)
if before then return before == '' and 0 or redis.error_reply(before) end
local fence, owner = string.match(redis.call('GET', mark) or '0', '^(%d+) ?(%w*)$')
if not fence then return redis.error_reply('ERR ' .. mark .. ' is no mark of a fence: somebody else wrote it') end
local seen, mine = tonumber(fence), tonumber(ARGV[1])
if seen > mine or (seen == mine and owner > ARGV[2]) then return seen end
redis.call('SET', mark, ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
redis.call('SET', done, '', 'PX', ARGV[4])
local at = 5
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  local reply = redis.pcall(unpack(ARGV, at + 1, at + words))
  if type(reply) == 'table' and reply.err then
    redis.call('SET', done, reply.err, 'PX', ARGV[4])
    return redis.error_reply(reply.err)
  end
  at = at + words + 1
end
return 0

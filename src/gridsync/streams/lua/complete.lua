#!lua
-- complete: acknowledge a delivery together with what came of it, events and state, all of it or nothing.
-- KEYS[1] log stream
-- KEYS[2] retry zset
-- KEYS[3] failed hash
-- KEYS[4] waiting zset
-- KEYS[5] done zset
-- KEYS[6] state hash
-- KEYS[7] floors hash
-- KEYS[8] meta hash
-- KEYS[9] versions hash
-- KEYS[10] recent zset
-- KEYS[11] sent hash
-- KEYS[12..] streams stream: one for each outbox, then one for each part
-- ARGV[1] name string: of the group
-- ARGV[2] consumer string
-- ARGV[3] id string
-- ARGV[4] attempts integer, deliveries that were begun, with this one
-- ARGV[5] event string: its id and, behind a space, the time of its commit
-- ARGV[6] window integer, events
-- ARGV[7] about bytes: what is known of the events, stored with each; nothing is stored when empty
-- ARGV[8] total integer, events
-- ARGV[9] mode string: link if the log only says where the payloads are, empty if it has them
-- ARGV[10] seen integer, fields of the state that were read
-- ARGV[11] changed integer, fields of the state that are changed
-- ARGV[12] boxes integer, outboxes
-- ARGV[13] consignments integer, consignments
-- ARGV[14..] words bytes: of each field that was read its name and what stood there, empty for nothing; of each change set, add or remove, the field and the value; of each consignment the number of its outbox, the stream, how many events, and id, type and payload of each; then the parts, as for commit
-- Returns {0, settled, version, position, ...} done, {1, settled} done before; {2, part, version} conflict, {3, part, version} in part, {4, n} field n was changed since, {5} the log is at its cap; {-1} no longer this consumer's. Settled is 2 if what waited behind it is due now, else 1
-- Category idempotent
-- Cost O(log pending + log done + fields), O(log window) per event
local args, log, retry, failed, waiting, done, view = ARGV, KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local meta, versions, recent, sent, keys, streams = KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS, {unpack(KEYS, 12 + ARGV[12])}
local name, consumer, id, window, about = ARGV[1], ARGV[2], ARGV[3], ARGV[6], ARGV[7]
local total, mode = tonumber(ARGV[8]), ARGV[9]
-- Who handles what is in the log makes it smaller: it may go over the cap by a tenth, where others have to wait.
local spare = 0.1
local first = 14 + 2 * ARGV[10]
local after = first + 3 * ARGV[11]
local place_in_log = string.match(id, '^%d+')

-- include parts/settled.lua

-- include parts/changes.lua

local entry, there = redis.call('XRANGE', log, id, id)[1], {}
for k = 1, entry and #entry[2] or 0, 2 do there[entry[2][k]] = entry[2][k + 1] end
-- A failover has lost the event, and another one got its position, perhaps delivered to the same consumer.
if entry and (there.i or '') .. ' ' .. (there.w or '') ~= ARGV[5] then return {-1, 1} end
local pending = redis.call('XPENDING', log, name, id, id, '1')[1]
-- Begun again since: by another consumer, or by a later life of one with the same name.
local ours = pending and pending[2] == consumer and pending[4] <= tonumber(ARGV[4])
local mark = redis.call('ZRANGEBYSCORE', done, place_in_log, place_in_log)[1]
-- After a lost reply it is no longer pending; a group that was made again delivers it once more, to anybody.
if not ours then return {mark == id .. ' ' .. consumer and 1 or -1, 1} end
if mark then
  redis.call('XACK', log, name, id)
  return {1, settled(id) and 2 or 1}
end

-- include parts/several.lua

-- include parts/consign.lua

for k = 14, first - 1, 2 do
  if (redis.call('HGET', view, args[k]) or '') ~= args[k + 1] then return {4, (k - 12) / 2} end
end
local field = unfit(first, after - 1)
if field then return redis.error_reply('NOTANUMBER ' .. field .. ' of the state of group ' .. name .. ' cannot be added to') end
local consignments, parts = packed(after, tonumber(ARGV[13]))
if not parts then return consignments end
local answer, fits = examine(parts)
-- Before the oldest event of the log is done nothing else can leave it, so its commit does not wait for that.
if answer and answer[1] == 5 and redis.call('XRANGE', log, '-', '+', 'COUNT', '1')[1][1] == id then answer = nil end
if answer and answer[1] ~= 1 then return answer end
-- Keys of a wrong type are noticed before the first write.
if redis.call('HLEN', failed) > 0 then redis.call('ZCARD', retry); redis.call('ZCARD', waiting) end
local floor = tonumber(string.match(redis.call('HGET', KEYS[7], name) or '0', '^%d+'))

local code = answer and 1 or 0
if code == 0 then
  answer = #fits > 0 and perform(fits, {0}) or {0}
  change(first, after - 1)
  consign(consignments)
end
redis.call('ZADD', done, place_in_log, id .. ' ' .. consumer)
-- What is far below the floor is never delivered again, nor asked for by a repeat that is still on its way.
if redis.call('ZCARD', done) % 64 == 0 then
  local old = redis.call('ZRANGEBYSCORE', done, '-inf', floor - 1000, 'LIMIT', '0', '128')
  if #old > 0 then redis.call('ZREM', done, unpack(old)) end
end
redis.call('XACK', log, name, id)
return {code, settled(id) and 2 or 1, unpack(answer, 2)}

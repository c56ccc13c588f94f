#!lua flags=allow-oom
-- claim: take over deliveries that their consumers have left idle, or find this consumer's own again.
-- KEYS[1] log stream
-- KEYS[2] retry zset
-- KEYS[3] failed hash
-- KEYS[4] waiting zset
-- ARGV[1] group string
-- ARGV[2] consumer string
-- ARGV[3] idle integer, ms: what was idle for so long, whoever has it; -1: what this consumer has; -2: the same after a
-- lost reply, which may have delivered what was never begun
-- ARGV[4] after string: the id behind which to look
-- ARGV[5] count integer, deliveries
-- Returns {id to look on behind (0-0: the end), {{id, fields, times begun}, ...}, {ids whose event is gone}}
-- Category never
-- Cost O(count log pending), looking at ten times as many entries, at most 1000
local log, retry, failed, waiting, group, consumer = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], ARGV[2]
-- include parts/settled.lua
local idle, after, count = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local own = idle < 0
local most = own and count or math.min(count * 10, 1000)
local range = {log, group, '(' .. after, '+', most, own and consumer or nil}
local rows = redis.call('XPENDING', unpack(range))
local entries, gone = {}, {}
for _, row in ipairs(rows) do
  if #entries + #gone == count then return {after, entries, gone} end
  local id = row[1]
  after = id
  -- What is parked waits for its time, however long; `due` hands it out.
  if own or (row[2] ~= '~parked' and row[3] >= idle) then
    local entry = redis.call('XCLAIM', log, group, consumer, '0', id, 'RETRYCOUNT', row[4])[1]
    if entry then
      local missed = idle == -2 and row[4] == 1 and redis.call('HEXISTS', failed, id) == 0
      entries[#entries + 1] = {id, entry[2], missed and 0 or row[4]}
    else
      settled(id)
      gone[#gone + 1] = id
    end
  end
end
return {#rows == most and after or '0-0', entries, gone}

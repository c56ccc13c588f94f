#!lua
-- cancel: take an open order out of a book; one that never came is refused if it comes now.
-- KEYS[1] meta hash
-- KEYS[2] versions hash
-- KEYS[3] log stream
-- KEYS[4] stream stream
-- KEYS[5] buy zset
-- KEYS[6] sell zset
-- KEYS[7] book hash
-- KEYS[8] expiry zset
-- KEYS[9] seen hash
-- KEYS[10] older hash
-- KEYS[11] metadata string
-- ARGV[1] name string: of the stream
-- ARGV[2] mode string: link if the log only says where the payloads are, empty if it has them
-- ARGV[3] terms string: tick and lot
-- ARGV[4] remember integer, ms
-- ARGV[5] id string: of the order
-- Returns {0, how, left, sequence} it is taken out | {1, how, left, sequence} it was not open, and ended so | {3, terms} the book has others | {5, events} the log is full
-- Category idempotent
-- Cost O(log orders)
local meta, versions, log, stream, buy, sell = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local book, expiry, seen, metadata = KEYS[7], KEYS[8], {KEYS[9], KEYS[10]}, KEYS[11]
local name, mode, terms, remember = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local id, level = ARGV[5], ''

-- include parts/book.lua

local how, left, total, code = nil, nil, nil, 0
if there[4] then
  -- What is looked at by nobody before it is written to.
  for _, key in ipairs({buy, sell, expiry}) do call('ZCARD', key) end
  for _, key in ipairs(seen) do call('HLEN', key) end
  local _, _, open, ends = parse(there[4])
  how, left = ends ~= '0' and ends - now <= 0 and 'expired' or 'cancelled', open
  remove(id, there[4], how)
else
  local before = call('HGET', seen[1], id) or call('HGET', seen[2], id)
  if before then
    how, left = match(before, '^(%S+) (%d+) ')
    return {1, how, left, version}
  end
  how, left, code = 'unknown', '0', 1
  over(id, how, left, '* *')
end

-- include parts/settle.lua

return {code, how, left, version}

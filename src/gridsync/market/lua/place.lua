#!lua
-- place: bring an order into a book: it trades with what it crosses, and the rest stays, or does not.
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
-- ARGV[5] most integer, orders: how many others it may meet
-- ARGV[6] id string: of the order
-- ARGV[7] side string: b or s
-- ARGV[8] price integer, ticks: empty takes any price
-- ARGV[9] quantity integer, lots
-- ARGV[10] rule string: gtc, ioc, fok or post
-- ARGV[11] protect string: cancel_newest, cancel_oldest, cancel_both or decrement
-- ARGV[12] owner string
-- ARGV[13] life integer, ms: 0 for as long as it is not cancelled
-- Returns {0, answer} done now | {1, answer} done before | {2} another order had this id | {3, terms} the book has others | {4} its level would hold too much | {5, events} the log is full | {6} expired orders were taken out: ask again; an answer is status, filled, left, reason, sequence, and maker, price, quantity and sequence of each trade
-- Category idempotent
-- Cost O(log orders) per order that it meets
local meta, versions, log, stream, buy, sell = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local book, expiry, seen, metadata = KEYS[7], KEYS[8], {KEYS[9], KEYS[10]}, KEYS[11]
local name, mode, terms, remember = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local most, id, side, price = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local level, wanted = side .. ':' .. price, ARGV[9]
local rule, protect, owner = ARGV[10], ARGV[11], ARGV[12]

-- include parts/book.lua

local print = side .. ',' .. price .. ',' .. wanted .. ',' .. rule .. ',' .. protect .. ',' .. owner .. ',' .. ARGV[13]

-- include parts/known.lua

-- include parts/sweep.lua

local result
local total = there[5] or 0
if not more then
  local whole, ends = tonumber(wanted), ARGV[13] == '0' and '0' or format('%d', now + ARGV[13])

-- include parts/enter.lua

end

-- include parts/settle.lua

return more and {6} or {0, result}

#!lua
-- replace: put another order in the place of one that is open; with the same price and no more quantity it keeps its turn.
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
-- ARGV[6] id string: of the new order
-- ARGV[7] old string: the order that it replaces
-- ARGV[8] price integer, ticks
-- ARGV[9] quantity integer, lots: of both together, so with what was traded before
-- ARGV[10] rule string: gtc or post
-- ARGV[11] protect string: cancel_newest, cancel_oldest, cancel_both or decrement
-- Returns as place; the reasons not_open and too_small are about the old order, which is as it was
-- Category idempotent
-- Cost O(log orders) per order that it meets
local meta, versions, log, stream, buy, sell = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local book, expiry, seen, metadata = KEYS[7], KEYS[8], {KEYS[9], KEYS[10]}, KEYS[11]
local name, mode, terms, remember = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local most, id, old, price = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local level, wanted = '', ARGV[9]
local rule, protect = ARGV[10], ARGV[11]

-- include parts/book.lua

local print = 'r,' .. old .. ',' .. price .. ',' .. wanted .. ',' .. rule .. ',' .. protect

-- include parts/known.lua

-- include parts/sweep.lua

local result, total
local found = not more and call('HGET', book, 'o:' .. old)
if found and leaving and leaving[old] then found = nil end
local why, cost, quantity, open, ends, owner, answered = not found and 'not_open', parse(found or '')
local whole = found and wanted - quantity + open
if found and whole <= 0 then why = 'too_small' end
if more then
  result = ''
elseif why then
  result = 'rejected,0,' .. wanted .. ',' .. why .. ',' .. format('%d', version + happened)
  over(id, why, wanted, print .. ' ' .. result)
else
  local side = sub(found, 18, 18)
  for _, key in ipairs({buy, sell, expiry}) do call('ZCARD', key) end
  if price == cost and whole <= tonumber(open) then
    local left = format('%d', whole)
    event('replaced', said(id, owner, side, price, left) .. ',"replaced":"' .. old .. '","by":' .. format('%d', open - whole) .. '}')
    shift(side, price, whole - open)
    leave(old, found, ends, 'replaced', open, answered)
    result = 'open,' .. format('%d', wanted - whole) .. ',' .. left .. ',,' .. format('%d', version + happened)
    stays, record = 'o:' .. id, sub(found, 1, 19) .. price .. ' ' .. wanted .. ' ' .. left .. ' ' .. ends .. ' ' .. owner .. ' ' .. print .. ' ' .. result
    into, score, joins = side == 'b' and buy or sell, side == 'b' and format('%d', -price) or price, sub(found, 1, 16) .. ':' .. id
    if ends ~= '0' then timed = ends end
  else
    level = side .. ':' .. price
    total = call('HGET', book, level) or 0
    remove(old, found, 'replaced')

-- include parts/enter.lua

  end
end

-- include parts/settle.lua

return more and {6} or {0, result}

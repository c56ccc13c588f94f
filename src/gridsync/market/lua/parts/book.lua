-- What every script that changes a book begins with: where the book stands, and how its changes are collected.
-- Before: meta, versions, log, stream, buy, sell, book, expiry and seen, the keys; name, mode, terms; id, an order; level, a field
-- Nothing is written while changes are collected: a plan can be given up as a whole.  Half of what a call costs is what
-- Lua does, so that a table is made where something goes into it, and what happens to every order is not in a function.
local call, format, match, sub = redis.call, string.format, string.match, string.sub

-- include /streams/parts/counters.lua

local last = call('HGET', versions, name) or '0'
local version = tonumber(last)
local there = call('HMGET', book, 'terms', 'turn', 'best', 'o:' .. id, level)
if there[1] and there[1] ~= terms then return {3, there[1]} end
-- One without the other was evicted or deleted by hand: writing on would mix two books.
local broken = ' has a book without its events or events without their book; restore the keys of this store'
if not there[1] ~= (version == 0) or (position == 0 and call('XLEN', log) > 0) then
  -- A mirror has the events only, and takes no orders anyway.
  return closed or redis.error_reply('INCONSISTENT ' .. name .. broken)
end

local clock = call('TIME')
local time = clock[1] .. sub('00000' .. clock[2], -6)
-- In milliseconds; as text, like all that is only passed on, or compared once by subtracting.
local now = sub(time, 1, -4)
local about = ''
-- A repeat is known by the id of its order, so that nobody looks for events by theirs.
local recent

-- What comes first in a sorted set.
local function first(key, sign)
  local score = call('ZRANGE', key, '0', '0', 'WITHSCORES')[2]
  return score and format('%d', sign * score) or 'null'
end

-- The best prices, and when the first order may expire: true as long as the book has no later event.
local of, bid, ask, due = match(there[3] or '', '^(%d+) (%S+) (%S+) (%S+)$')
if of ~= last then bid, ask, due = first(buy, -1), first(sell, 1), first(expiry, 1) end

-- What is to be written: events; what the levels gain; members that leave each side, fields of the book, orders and what
-- is remembered of them, and those that had a timer; a field of an open order; what joins which side, and its timer.
local happened, args, levels, out, gone, ended, untimed, leaving, stays, record, into, score, joins, timed = 0, nil, {}

local function event(kind, data)
  happened = happened + 1
  local id, type, at = format('%s:%d', name, version + happened), 'orderbook.' .. kind, 3 * happened
  if happened == 1 then args = {id, type, data} else args[at - 2], args[at - 1], args[at] = id, type, data end
end

-- The beginning of an event about one order.
local function said(id, owner, side, price, quantity)
  return '{"order":"' .. id .. '","owner":"' .. owner .. (side == 'b' and '","side":"buy","price":' or '","side":"sell","price":')
    .. price .. ',"quantity":' .. quantity
end

local function shift(side, price, by)
  local field = side .. ':' .. price
  levels[field] = (levels[field] or 0) + by
end

-- How an order ended is remembered, with what was asked for and what that was answered.
local function over(id, how, left, answered)
  local text = how .. ' ' .. left .. ' ' .. answered
  if not ended then ended = {id, text} else ended[#ended + 1], ended[#ended + 2] = id, text end
end

-- All that a record says after place and side.
local function parse(record) return match(record, '^(%S+) (%d+) (%d+) (%d+) (%S*) (.+)$', 20) end

local function leave(id, record, ends, how, left, answered)
  local side = sub(record, 18, 18)
  local member = sub(record, 1, 16) .. ':' .. id
  if gone then gone[#gone + 1] = 'o:' .. id else gone, out = {'o:' .. id}, {} end
  if out[side] then out[side][#out[side] + 1] = member else out[side] = {member} end
  if ends ~= '0' then
    untimed = untimed or {}
    untimed[#untimed + 1] = id
  end
  over(id, how, left, answered)
end

local function remove(id, record, why)
  local side, price, _, left, ends, owner, answered = sub(record, 18, 18), parse(record)
  event('removed', said(id, owner, side, price, left) .. ',"reason":"' .. why .. '"}')
  shift(side, price, -left)
  leaving = leaving or {}
  leaving[id] = true
  leave(id, record, ends, why, left, answered)
end

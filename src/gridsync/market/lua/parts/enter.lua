-- What brings an order into a book: it trades with what it crosses, and the rest stays, or does not.
-- Before: what parts/book.lua makes; most, how many orders it may meet; id, side, price, wanted, rule, protect, owner, ends
-- and print of the order; whole, how much of it may trade; total, how much stands at its price
-- After: result, what its placing is answered

local left, traded, why, trades = whole, 0
local theirs, queue, sign, best = 's', sell, 1, ask
if side == 's' then theirs, queue, sign, best = 'b', buy, -1, bid end
local crosses, at, size, met = best ~= 'null' and (price == '' or sign * (best - price) <= 0), 0, 1, 0
while crosses do
  local from, to = '0', '0'
  if at > 0 then from, to = format('%d', at), format('%d', at + size - 1) end
  local page, fields = call('ZRANGE', queue, from, to), {}
  if at == 0 and not page[1] then return redis.error_reply('INCONSISTENT ' .. name .. broken) end
  for k, member in ipairs(page) do fields[k] = 'o:' .. sub(member, 18) end
  for k, found in ipairs(page[1] and call('HMGET', book, unpack(fields)) or page) do
    local maker = sub(page[k], 18)
    if not (leaving and leaving[maker]) then
      if not found then return redis.error_reply('INCONSISTENT ' .. name .. broken) end
      local cost, quantity, offered, till, other, answered = parse(found)
      crosses = left > 0 and (price == '' or sign * (cost - price) <= 0)
      if crosses and (rule == 'post' or met - most == 0) then why = rule == 'post' and 'would_trade' or 'max_fills' end
      if why or not crosses then break end
      met, offered = met + 1, tonumber(offered)
      local amount, same = left < offered and left or offered, owner ~= '' and owner == other
      local by, rest = format('%d', amount), format('%d', offered - amount)
      if same and protect ~= 'decrement' then
        if protect ~= 'cancel_newest' then remove(maker, found, 'self_trade') end
        if protect ~= 'cancel_oldest' then why = 'self_trade' end
      else
        left = left - amount
        if same and rest == '0' then
          remove(maker, found, 'self_trade')
        else
          if same then
            quantity = format('%d', quantity - amount)
            event('reduced', said(maker, other, theirs, cost, rest) .. ',"by":' .. by .. ',"reason":"self_trade"}')
          else
            traded = traded + amount
            event('traded', '{"maker":"' .. maker .. '","taker":"' .. id .. '","maker_owner":"' .. other .. '","taker_owner":"' .. owner
              .. (side == 'b' and '","side":"buy","price":' or '","side":"sell","price":') .. cost .. ',"quantity":' .. by
              .. ',"maker_left":' .. rest .. '}')
            trades = trades or {}
            trades[#trades + 1] = format(',%s,%s,%s,%d', maker, cost, by, version + happened)
          end
          shift(theirs, cost, -amount)
          if rest == '0' then
            leave(maker, found, till, 'filled', rest, answered)
          else
            stays, record = fields[k], sub(found, 1, 19) .. cost .. ' ' .. quantity .. ' ' .. rest .. ' ' .. till .. ' ' .. other .. ' ' .. answered
          end
        end
        if same and left == 0 then why = 'self_trade' end
      end
      if why then break end
    end
  end
  crosses = crosses and not why and left > 0 and #page == size
  at, size = at + size, 32
end

local filled, status = format('%d', wanted - whole + traded), 'filled'
if rule == 'post' and why or rule == 'fok' and traded < whole then
  happened, levels, out, gone, ended, untimed, leaving, stays, trades = 0, {}
  status, left, why, filled = 'rejected', whole, why == 'would_trade' and why or 'cannot_fill', '0'
elseif why then
  status = 'cancelled'
elseif left > 0 and (rule == 'ioc' or rule == 'fok') then
  status, why = 'cancelled', 'unfilled'
elseif left > 0 then
  status = 'open'
  if total + (levels[level] or 0) + left > 9007199254740991 then return {4} end
end
local lots = format('%d', left)
if status == 'open' then
  event('rested', said(id, owner, side, price, lots) .. ',"filled":' .. filled .. ',"expires_ms":' .. ends .. '}')
end
result = status .. ',' .. filled .. ',' .. lots .. ',' .. (why or '') .. ',' .. format('%d', version + happened)
  .. (trades and table.concat(trades) or '')
if status == 'open' then
  -- What was taken off for want of anybody else to trade with was not traded.
  local place = format('%016d', version + happened)
  stays, record = 'o:' .. id, place .. ' ' .. side .. ' ' .. price .. ' ' .. format('%d', wanted - whole + traded + left) .. ' ' .. lots
    .. ' ' .. ends .. ' ' .. owner .. ' ' .. print .. ' ' .. result
  shift(side, price, left)
  joins = place .. ':' .. id
  if side == 'b' then
    into, score = buy, format('%d', -price)
    if bid == 'null' or price - bid > 0 then bid = price end
  else
    into, score = sell, price
    if ask == 'null' or ask - price > 0 then ask = price end
  end
  if ends ~= '0' then
    timed = ends
    if due == 'null' or due - ends > 0 then due = ends end
  end
else
  over(id, why or 'filled', lots, print .. ' ' .. result)
end

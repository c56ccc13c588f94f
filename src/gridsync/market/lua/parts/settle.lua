-- What writes the changes of a book: the events first, in one piece with what follows from them.
-- Before: what parts/book.lua makes; remember; level and total, a field of the book and what stands there; metadata, a key

-- If the log is full, or takes no events at all, nothing is written.
if closed then return closed end
if kept[3] and happened > 0 and position + happened > tonumber(kept[3]) then return {5, happened} end
-- A key of a wrong type is noticed while nothing is written yet; that of the stream when it is written to, first of all.
if happened > 0 then call('XLEN', log) end
if joins then call('ZCARD', into) end
if timed or untimed then call('ZCARD', expiry) end

-- include /streams/parts/write.lua

local sets = {}
if happened > 0 then
  if version == 0 then sets = {'terms', terms} end
  version, position = write(stream, name, version, position, -2, happened)
  call('HSET', meta, 'pos', format('%d', position))
  last = format('%d', version)
end
if out then
  if out.b then call('ZREM', buy, unpack(out.b)) end
  if out.s then call('ZREM', sell, unpack(out.s)) end
  if untimed then call('ZREM', expiry, unpack(untimed)) end
end
if joins then call('ZADD', into, score, joins) end
if timed then call('ZADD', expiry, timed, id) end
for field, by in pairs(levels) do
  local lots = field == level and total + by or call('HINCRBY', book, field, format('%d', by))
  if lots == 0 then
    gone = gone or {}
    gone[#gone + 1] = field
    -- The best price is another one as soon as nothing stands there any more.
    if field == 'b:' .. bid then bid = first(buy, -1) elseif field == 's:' .. ask then ask = first(sell, 1) end
  elseif field == level then
    sets[#sets + 1], sets[#sets + 2] = field, format('%d', lots)
  end
end
if ended then
  local turn, since = match(there[2] or '1 0', '^(%d) (%d+)$')
  -- Two hashes by turns: what was remembered longest ago goes all at once, without a look at each.
  if now - since - remember >= 0 then
    turn = turn == '1' and '2' or '1'
    call('UNLINK', seen[tonumber(turn)])
    sets[#sets + 1], sets[#sets + 2] = 'turn', turn .. ' ' .. now
  end
  call('HSET', seen[tonumber(turn)], unpack(ended))
end
if gone then call('HDEL', book, unpack(gone)) end
if stays then sets[#sets + 1], sets[#sets + 2] = stays, record end
if due ~= 'null' and due - now <= 0 then due = first(expiry, 1) end
if happened > 0 then sets[#sets + 1], sets[#sets + 2] = 'best', last .. ' ' .. bid .. ' ' .. ask .. ' ' .. due end
if sets[1] then call('HSET', book, unpack(sets)) end
local spread = bid ~= 'null' and ask ~= 'null' and format('%d', ask - bid) or 'null'
call('SET', metadata, '{"bid":' .. bid .. ',"ask":' .. ask .. ',"spread":' .. spread .. ',"sequence":' .. last .. ',"time_us":' .. time .. '}',
  'PX', '300000')

-- What takes out what has expired, a hundred at most; `more` is true if there may be more.
-- Before: what parts/book.lua makes

local more = false
if due ~= 'null' and due - now <= 0 then
  local lapsed, fields = call('ZRANGEBYSCORE', expiry, '-inf', now, 'LIMIT', '0', '100'), {}
  -- What is written to only here.
  for _, key in ipairs({buy, sell}) do call('ZCARD', key) end
  for _, key in ipairs(seen) do call('HLEN', key) end
  for k, each in ipairs(lapsed) do fields[k] = 'o:' .. each end
  for k, record in ipairs(#lapsed > 0 and call('HMGET', book, unpack(fields)) or lapsed) do remove(lapsed[k], record, 'expired') end
  more = #lapsed == 100
end

-- What answers a request that came before: as it was answered then.
-- Before: what parts/book.lua makes; print, all that the request says; wanted, how many lots

local before
if there[4] then
  local _, _, _, _, _, answered = parse(there[4])
  before = answered
else
  before = call('HGET', seen[1], id) or call('HGET', seen[2], id)
  before = before and match(before, '^%S+ %S+ (.+)$')
end
if before then
  local known, answer = match(before, '^(%S+) (%S+)$')
  -- It was cancelled before it came: whoever did that was told that it would not come.
  if known == '*' then return {1, 'rejected,0,' .. wanted .. ',cancelled,' .. last} end
  return known == print and {1, answer} or {2}
end

#!lua
-- look: tell how far a channel is, and what came after a position, if that is a position of its history.
-- KEYS[1] state hash: e epoch, o the last offset, m its mark; lives for life after the last look
-- KEYS[2] history stream: <offset>-0 with m mark, i id, k key, d payload
-- KEYS[3] ids zset: id of a publication -> its offset, for the newest
-- ARGV[1] token string: unlike any other's
-- ARGV[2] life integer, ms
-- ARGV[3] epoch string: of the position, or nothing if there is none
-- ARGV[4] offset integer, publications: of the position
-- ARGV[5] mark string: of the position
-- ARGV[6] count integer, publications: at most so many are told
-- ARGV[7] bytes integer, bytes: no more are told after so many, but at least one is
-- ARGV[8] until integer, ms: the position counts until then, server time; 0 for always
-- Returns {0 it leads on | 1 another epoch | 2 what follows is kept no longer | 3 another history | 4 too late, epoch,
--   the last offset, its mark, server time in ms, entries after the position}
-- Category idempotent
-- Cost O(count)
local M, L, I, token, life = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2]
-- include parts/channel.lua
local now_ms = math.floor(tonumber(now_us) / 1000)
local function told(code, entries)
  return {code, epoch, tonumber(top), mark, now_ms, entries or {}}
end
local offset, limit = tonumber(ARGV[4]), tonumber(ARGV[8])
if ARGV[3] == '' then return told(0) end
if limit > 0 and now_ms > limit then return told(4) end
if ARGV[3] ~= epoch then return told(1) end
if offset > tonumber(top) then return told(3) end
if offset == tonumber(top) then return told(mark == ARGV[5] and 0 or 3) end
-- The position itself is read too, and must be what the caller saw there.
local from = math.max(offset, 1)
local found = redis.call('XRANGE', L, string.format('%.0f-0', from), '+', 'COUNT', tonumber(ARGV[6]) + 1)
if not found[1] or found[1][1] ~= string.format('%.0f-0', from) then return told(2) end
local first = 1
if offset > 0 then
  if found[1][2][2] ~= ARGV[5] then return told(3) end
  first = 2
end
local entries, room = {}, tonumber(ARGV[7])
for k = first, #found do
  if room <= 0 or #entries == tonumber(ARGV[6]) then break end
  entries[#entries + 1] = found[k]
  room = room - #found[k][2][8]
end
return told(0, entries)

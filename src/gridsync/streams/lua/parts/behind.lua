-- What orders those that wait behind an earlier event of their stream: by stream, then by position.
-- Before: nothing
local function place_of(key, id)
  local position = string.match(id, '^%d+')
  return string.format('%03d', #key) .. key .. string.rep('0', 16 - #position) .. position
end

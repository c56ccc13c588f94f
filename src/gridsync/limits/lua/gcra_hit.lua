#!lua
-- gcra_hit: take cost from one bucket, now or soon, or say when it will hold enough.
-- KEYS[1] bucket string: see parts/bucket.lua
-- ARGV[1] hit string: ten characters that no other hit of these minutes has
-- ARGV[2] repeat_us integer, us
-- ARGV[3] cost integer, units
-- ARGV[4] p integer, us: a unit comes back in p/q us
-- ARGV[5] max_wait integer, us
-- ARGV[6] q integer, parts
-- ARGV[7] burst integer, units
-- Returns {retry_us (0 admitted, -1 never), remaining, reset_us, rule (always 0)}; and after these, if it is admitted
-- later than now, in how many us
-- Category idempotent
-- Cost O(1)

local key, hit, cost, max_wait = KEYS[1], ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[5])
local p, q, burst = tonumber(ARGV[4]), tonumber(ARGV[6]), tonumber(ARGV[7])
-- include parts/bucket.lua

if ARGV[2] ~= '0' then
  local at = string.match(';' .. hits, ';' .. hit .. ',(%d+),')
  if at then
    local delay = tonumber(at) - now
    return {0, left(), until_full(), 0, max_wait > 0 and delay > 0 and delay or nil}
  end
end

local at, wait = now, -1
if cost <= burst then
  at = math.max(now, holds(cost))
  wait = at - now
end
if wait < 0 or wait > max_wait then
  if stepped then keep() end -- else the next one would start from the old clock again
  return {wait, left(), until_full(), 0}
end
if count == 16 then
  local oldest, its_cost = string.match(hits, '^%w+,(%d+),(%d+);')
  base, base_part = poured(base, base_part, tonumber(oldest), tonumber(its_cost))
  hits, count = string.sub(hits, string.find(hits, ';', 1, true) + 1), count - 1
end
full, part = poured(full, part, at, cost)
last = at
hits, count = hits .. hit .. ',' .. string.format('%.0f,%d;', at, cost), count + 1
keep()
return {0, left(), until_full(), 0, wait > 0 and wait or nil}

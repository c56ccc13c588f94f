#!lua
-- check: take cost from the keys of several limiters, from all or from none, or say when each of them will have it.
-- KEYS[1..] keys any: one of each limiter, of the type that its algorithm keeps
-- ARGV[1] repeat_us integer, us
-- ARGV[2..] asked string: of each key the script that hits and the one that peeks, how many arguments the first one
-- takes and the second one, and these
-- Returns {1 if all were admitted, else 0, and of each key retry_us, remaining, reset_us and rule, as its scripts do}
-- Category idempotent
-- Cost that of a peek and a hit of each

-- The scripts that know how the keys are kept are run as they are: first all that look, then all that take.  Nobody
-- comes between, and time stands still, so who was told to come in is let in.
local clock, call = redis.call('TIME'), redis.call
local redis = setmetatable({
  call = function(name, ...)
    if name == 'TIME' then return clock end
    return call(name, ...)
  end,
}, {__index = redis})
local scripts = {}
function scripts.hit_one(KEYS, ARGV)
-- include hit_one.lua
end
function scripts.hit(KEYS, ARGV)
-- include hit.lua
end
function scripts.peek(KEYS, ARGV)
-- include peek.lua
end
function scripts.gcra_hit(KEYS, ARGV)
-- include gcra_hit.lua
end
function scripts.gcra_peek(KEYS, ARGV)
-- include gcra_peek.lua
end
function scripts.counter_hit(KEYS, ARGV)
-- include counter_hit.lua
end
function scripts.counter_peek(KEYS, ARGV)
-- include counter_peek.lua
end
function scripts.slot_hit(KEYS, ARGV)
-- include slot_hit.lua
end
function scripts.slot_peek(KEYS, ARGV)
-- include slot_peek.lua
end

local asked, from = {}, 2
for i, key in ipairs(KEYS) do
  local hits, peeks = from + 3 + ARGV[from + 2], from + 3 + ARGV[from + 2] + ARGV[from + 3]
  asked[i] = {
    hit = scripts[ARGV[from]], peek = scripts[ARGV[from + 1]], keys = {key},
    hit_args = {unpack(ARGV, from + 4, hits)}, peek_args = {unpack(ARGV, hits + 1, peeks)},
  }
  from = peeks + 1
end

-- Ask for more than any limit admits: nothing is taken.
local function try(one, repeat_us)
  return one.hit(one.keys, {one.hit_args[1], repeat_us, '1000000000000000', unpack(one.hit_args, 4)})
end

-- Who says yes to that knows the hit already.  If one does, all were admitted then, though some may have forgotten.
local admitted, repeated = 1, false
for _, one in ipairs(ARGV[1] ~= '0' and asked or {}) do
  local told = try(one, ARGV[1])
  if told[1] == 0 then one.told, repeated = told, true end
end
for _, one in ipairs(asked) do
  one.told = one.told or one.peek(one.keys, one.peek_args)
  if one.told.err then return one.told end
  if repeated then one.told[1] = 0 end
  if one.told[1] ~= 0 then admitted = 0 end
end
local answer = {admitted}
for _, one in ipairs(asked) do
  if admitted == 1 and not repeated then one.told = one.hit(one.keys, one.hit_args) end
  if one.told[1] ~= 0 then try(one, '0') end -- a hit that is denied takes note of a clock that was set back
  for i = 1, 4 do answer[#answer + 1] = one.told[i] end
end
return answer

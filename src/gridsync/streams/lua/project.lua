#!lua
-- project: change a projection and note how far it has got, if it is still where the caller believes it to be.
-- KEYS[1] view hash
-- KEYS[2] places hash
-- ARGV[1] name string
-- ARGV[2] before string: the checkpoint it is believed to be at
-- ARGV[3] after string: the checkpoint that these changes lead to
-- ARGV[4..] changes bytes: set, add or remove; a field, each once; the value, empty to remove
-- Returns the checkpoint it is at: the new one if these changes are in it, now or before
-- Category idempotent
-- Cost O(changes)
local args, view, places, name, after = ARGV, KEYS[1], KEYS[2], ARGV[1], ARGV[3]
local at = redis.call('HGET', places, name) or '0'
-- Already there, or somebody else has got further: either way nothing is to be done here.
if at ~= ARGV[2] then return at end

-- include parts/changes.lua

local field = unfit(4, #args)
if field then return redis.error_reply('NOTANUMBER ' .. field .. ' of projection ' .. name .. ' cannot be added to') end
change(4, #args)
redis.call('HSET', places, name, after)
return after

-- Replace the epoch, unless it is not what the caller has seen. KEYS: as in beat.lua. ARGV: what it has seen, empty
-- for nothing, and what is to be. Answers 1 where that is there now, also when it was there already: the answer to the
-- first call may have been lost.
local epoch, seen, wanted = KEYS[3], ARGV[1], ARGV[2]
local there = redis.call('GET', epoch) or ''
if there ~= seen and there ~= wanted then
  return 0
end
redis.call('SET', epoch, wanted)
return 1

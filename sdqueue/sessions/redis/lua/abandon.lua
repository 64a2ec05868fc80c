-- Give the lock back without a save, and take the beginning back with it.
local turn, started = argument(), argument()
redis.call('HDEL', waiters, me)
if not release() then return 0 end
if turn ~= '' then rewind(turn, started) end
return 1

-- Prolong my lock. Answers 0 where it is no longer mine.
local me, life = argument(), argument()
if redis.call('GET', lock) ~= me then return 0 end
redis.call('PEXPIRE', lock, life)
return 1

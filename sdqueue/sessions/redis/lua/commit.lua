-- Save the record and give the lock back. Answers as save does, or 'lost' where the lock is no longer mine.
if redis.call('GET', lock) ~= me then return 'lost' end
local answer = save()
if answer == 'saved' then release() end
return answer

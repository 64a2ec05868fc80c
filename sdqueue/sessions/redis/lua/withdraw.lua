-- Give the lock back to the next, or stop waiting for it. Answers 1 where it was mine.
redis.call('HDEL', waiters, me)
return release() and 1 or 0

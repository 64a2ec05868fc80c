-- A part of the index of wrapped keys: KEYS[1] session id -> time. As a script, since redis-py's client of a cluster
-- arranges what the plain command answers.
return redis.call('ZSCAN', KEYS[1], ARGV[1], 'COUNT', 1000)

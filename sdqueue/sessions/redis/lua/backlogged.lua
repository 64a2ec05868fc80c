-- A part of the index: KEYS[1] session id -> mark.
return redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', 1000)

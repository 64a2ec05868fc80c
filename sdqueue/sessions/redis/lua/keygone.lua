-- Take a session off the index of wrapped keys, KEYS[1], where it was not listed anew since this time was read.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('ZREM', KEYS[1], ARGV[1]) end
return 0

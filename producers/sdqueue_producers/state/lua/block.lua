-- Block a bucket, unless it is blocked for longer. KEYS: the block. ARGV: for how many ms.
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], '1', 'PX', ARGV[1]) end
return 1

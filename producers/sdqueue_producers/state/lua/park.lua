-- Put a reply behind the others of its session. KEYS: the sessions by the time when their first is due, the session's
-- line (a list of keys), its replies (a hash). ARGV: session, key, body, attempts, due at, first tried at.
if redis.call('HSETNX', KEYS[3], 'body:' .. ARGV[2], ARGV[3]) == 0 then return 0 end
redis.call('HSET', KEYS[3], 'tries:' .. ARGV[2], ARGV[4] .. ' ' .. ARGV[5] .. ' ' .. ARGV[6])
if redis.call('RPUSH', KEYS[2], ARGV[2]) == 1 then redis.call('ZADD', KEYS[1], ARGV[5], ARGV[1]) end
return 1

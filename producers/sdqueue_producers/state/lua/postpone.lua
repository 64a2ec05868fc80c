-- Try the first of a session again later. KEYS: as in park.lua. ARGV: session, key, attempts, due at.
if redis.call('LINDEX', KEYS[2], 0) ~= ARGV[2] then return 0 end
local tries = redis.call('HGET', KEYS[3], 'tries:' .. ARGV[2])
local first_at = string.match(tries, '(%S+)$')
redis.call('HSET', KEYS[3], 'tries:' .. ARGV[2], ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. first_at)
redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1])
return 1

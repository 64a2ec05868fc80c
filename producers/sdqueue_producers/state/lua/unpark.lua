-- Take the first of a session out. KEYS: as in park.lua. ARGV: session, key.
if redis.call('LINDEX', KEYS[2], 0) ~= ARGV[2] then return 0 end
redis.call('LPOP', KEYS[2])
redis.call('HDEL', KEYS[3], 'body:' .. ARGV[2], 'tries:' .. ARGV[2])
local key = redis.call('LINDEX', KEYS[2], 0)
if key then
  local due_at = string.match(redis.call('HGET', KEYS[3], 'tries:' .. key), ' (%S+) ')
  redis.call('ZADD', KEYS[1], due_at, ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return 1

-- The wrapped key of a session, KEYS[1], whose life starts anew where it would otherwise end sooner.
local found, ttl = redis.call('GET', KEYS[1]), tonumber(ARGV[1])
if found and redis.call('PTTL', KEYS[1]) < ttl then redis.call('PEXPIRE', KEYS[1], ttl) end
return found

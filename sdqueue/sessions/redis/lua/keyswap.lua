-- Keep the wrapped key of a session, KEYS[1], where it still has the one expected ('': none). Answers what it has then.
local expected, entry, ttl = ARGV[1], ARGV[2], ARGV[3]
local found = redis.call('GET', KEYS[1])
if (found or '') ~= expected then
  redis.call('PEXPIRE', KEYS[1], ttl)
  return found
end
redis.call('SET', KEYS[1], entry, 'PX', ttl)
return entry

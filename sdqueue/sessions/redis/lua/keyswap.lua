-- Keep the wrapped key of a session, KEYS[1], where it still has the one expected, or none where none is given. Answers
-- what it has then.
local entry, ttl, expected = ARGV[1], ARGV[2], ARGV[3] or false
local found = redis.call('GET', KEYS[1])
if found ~= expected then
  redis.call('PEXPIRE', KEYS[1], ttl)
  return found
end
redis.call('SET', KEYS[1], entry, 'PX', ttl)
return entry

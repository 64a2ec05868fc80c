-- Keep the wrapped key of a session, KEYS[1], where it still has the one expected, or none where none is given. Answers
-- what it has then. A life that is longer already, as of a process that was told of another, is not shortened.
local entry, ttl, expected = ARGV[1], tonumber(ARGV[2]), ARGV[3] or false
local left = redis.call('PTTL', KEYS[1])
local found = redis.call('GET', KEYS[1])
if found == expected then redis.call('SET', KEYS[1], entry) end
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(ttl, left)))
if found == expected then return entry end
return found

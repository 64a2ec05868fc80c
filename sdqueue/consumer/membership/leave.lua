-- Leave the list of members. KEYS: as in beat.lua.
local members, announced = unpack(KEYS)
redis.call('HDEL', announced, ARGV[1])
return redis.call('ZREM', members, ARGV[1])

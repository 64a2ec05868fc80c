-- A sign of life: sign the list, drop those that were not heard for long, and read it.
--
-- KEYS: the members, a sorted set by the time of their last sign; their announcements, a hash; the epoch, a string.
-- Answers whether this member is new, the epoch or false, and id, time in ms and announcement of each member.
local members, announced, epoch = unpack(KEYS)
local me, announcement, life = ARGV[1], ARGV[2], tonumber(ARGV[3])

-- The server's clock, because those of the members differ.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local gone = redis.call('ZRANGEBYSCORE', members, '-inf', now - life)
if #gone > 0 then
  redis.call('ZREM', members, unpack(gone))
  redis.call('HDEL', announced, unpack(gone))
end

local added = redis.call('ZADD', members, now, me)
redis.call('HSET', announced, me, announcement)
-- A pool that is gone leaves nothing behind.
redis.call('PEXPIRE', members, 20 * life)
redis.call('PEXPIRE', announced, 20 * life)

local answer = {added, redis.call('GET', epoch)}
local listed = redis.call('ZRANGE', members, 0, -1, 'WITHSCORES')
for i = 1, #listed, 2 do
  answer[#answer + 1] = listed[i]
  answer[#answer + 1] = listed[i + 1]
  answer[#answer + 1] = redis.call('HGET', announced, listed[i]) or '0:0'
end
return answer

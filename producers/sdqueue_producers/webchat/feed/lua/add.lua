-- Add an entry to the log of a session.
-- KEYS: the stream of entries, what is known of the log (epoch, newest, floor), the places by slot, the slots that are
-- done. ARGV: the log's life in ms, entries and slots to keep, the mode, the slot, the body, the channel to tell, the
-- session. Answers 1 where something changed.
local stream, about, places, done = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local ttl, mode, slot, body = ARGV[1], ARGV[4], ARGV[5], ARGV[6]
local most, most_slots = tonumber(ARGV[2]), tonumber(ARGV[3])

local epoch = redis.call('HGET', about, 'epoch')
if not epoch then
  local time = redis.call('TIME')
  epoch = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('DEL', stream, places, done) -- what an eviction has left
  redis.call('HSET', about, 'epoch', epoch, 'newest', 0, 'floor', 0)
end

local place = redis.call('HGET', places, slot)
if redis.call('ZSCORE', done, slot) then
  if mode ~= 'edit' then return 0 end
  local there = place and redis.call('XRANGE', stream, place, place)[1]
  if there and there[2][4] == body then return 0 end
end

local number = redis.call('HINCRBY', about, 'newest', 1)
if place then redis.call('XDEL', stream, place) end
redis.call('XADD', stream, epoch .. '-' .. number, 's', slot, 'b', body)
redis.call('HSET', places, slot, epoch .. '-' .. number)
if mode ~= 'grow' then
  redis.call('ZADD', done, number, slot)
  redis.call('ZREMRANGEBYRANK', done, 0, -most_slots - 1)
end

local over = redis.call('XLEN', stream) - most
if over > 0 then
  for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', over)) do
    redis.call('XDEL', stream, entry[1])
    redis.call('HDEL', places, entry[2][2])
    redis.call('HSET', about, 'floor', string.match(entry[1], '%-(%d+)$'))
  end
end

for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ttl) end
redis.call('PUBLISH', ARGV[7], ARGV[8])
return 1

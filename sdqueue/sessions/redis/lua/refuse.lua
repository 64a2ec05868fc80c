-- Keep the outcome of a refused turn. Answers the one that is kept, or nil where the turn has begun, has ended or waits.
local turn, at, outcome, horizon, most, ttl = argument(), argument(), argument(), argument(), argument(), argument()

local function forget(found)
  for _, id in ipairs(found) do
    redis.call('HDEL', refused, id)
    redis.call('ZREM', refusals, id)
  end
end

if redis.call('ZSCORE', backlog, turn) then return false end
-- Without a session, ids are the remains of one.
if redis.call('EXISTS', session) == 1 and redis.call('ZSCORE', ids, turn) then return false end
local first = redis.call('HGET', refused, turn)
if first then return first end
if redis.call('HEXISTS', begun, turn) == 1 then return false end

redis.call('HSET', refused, turn, outcome)
redis.call('ZADD', refusals, at, turn)
forget(redis.call('ZRANGEBYSCORE', refusals, '-inf', '(' .. horizon))
local excess = redis.call('ZCARD', refusals) - most
if excess > 0 then forget(redis.call('ZRANGE', refusals, 0, excess - 1)) end
touch(ttl)
return outcome

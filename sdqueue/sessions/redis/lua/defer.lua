-- Append turns to the backlog. Answers for each 1 where it was added, 2 where it was there, 0 where it was left out.
local limit, ttl, count = tonumber(argument()), argument(), tonumber(argument())
local waiting = redis.call('ZCARD', backlog)
-- Follows the clock, so that no position is given twice, not even after a delete.
local time = redis.call('TIME')
local place = math.max(time[1] * 1000000 + time[2], tonumber(redis.call('GET', newest) or 0))
local answers = {}

for n = 1, count do
  local turn, message = argument(), argument()
  if redis.call('ZSCORE', backlog, turn) then
    answers[n] = 2
  elseif waiting >= limit or redis.call('HEXISTS', refused, turn) == 1 then
    answers[n] = 0
  else
    place, waiting = place + 1, waiting + 1
    redis.call('ZADD', backlog, string.format('%.0f', place), turn)
    redis.call('HSET', deferred, turn, message)
    answers[n] = 1
  end
end

redis.call('SET', newest, string.format('%.0f', place))
touch(ttl)
return answers

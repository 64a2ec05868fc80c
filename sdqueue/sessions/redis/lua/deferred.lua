-- The oldest turns behind a position: {id, position, message} each; without a message where it is missing.
local after, count = argument(), argument()
local found = redis.call('ZRANGEBYSCORE', backlog, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, count)
local answers = {}
for i = 1, #found, 2 do
  answers[#answers + 1] = {found[i], found[i + 1], redis.call('HGET', deferred, found[i]) or nil}
end
return answers

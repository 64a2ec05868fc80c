-- Add entries to the log of a turn. KEYS: the stream. ARGV: its life in ms, how many entries it keeps, then for each
-- entry its offset, the least offset to stay from then on ('' for all), and the reply.
for position = 3, #ARGV, 3 do
  local offset, floor, reply = ARGV[position], ARGV[position + 1], ARGV[position + 2]
  local added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], offset, 'r', reply)
  if type(added) ~= 'table' then
    if floor ~= '' then redis.call('XTRIM', KEYS[1], 'MINID', floor) end
  elseif not string.find(added.err, 'equal or smaller', 1, true) then
    return added
  end
end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])

-- Set a value unless it is another one than those two by now. KEYS: its key. ARGV: what it was, what it shall be, its
-- life in ms, 0 for ever. Returns whether it was set.
local value = redis.call('GET', KEYS[1])
if value and value ~= ARGV[1] and value ~= ARGV[2] then return 0 end
if ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1

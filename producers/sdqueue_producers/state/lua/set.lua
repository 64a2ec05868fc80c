-- Set values together. KEYS: theirs. ARGV: their life in ms, 0 for ever, then the values.
for number, key in ipairs(KEYS) do
  if ARGV[1] == '0' then
    redis.call('SET', key, ARGV[number + 1])
  else
    redis.call('SET', key, ARGV[number + 1], 'PX', ARGV[1])
  end
end
return 1

local ttl = argument()
for n = position + 1, #ARGV do
  redis.call('ZREM', backlog, ARGV[n])
  redis.call('HDEL', deferred, ARGV[n])
end
touch(ttl)

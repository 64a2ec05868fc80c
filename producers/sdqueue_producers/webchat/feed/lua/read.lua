-- What came after a place, and what is known of the log. KEYS: the stream of entries, what is known of the log.
-- ARGV: the place ('' for the beginning), how many entries at most.
local about = redis.call('HMGET', KEYS[2], 'epoch', 'newest', 'floor')
local from = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', ARGV[2])
return {about[1] or '0', about[2] or '0', about[3] or '0', entries}

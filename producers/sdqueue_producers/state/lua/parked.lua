-- The first reply of a session: its key, body, and tries; nil where none waits. KEYS: its line, its replies.
local key = redis.call('LINDEX', KEYS[1], 0)
if not key then return nil end
local found = redis.call('HMGET', KEYS[2], 'body:' .. key, 'tries:' .. key)
return {key, found[1], found[2]}

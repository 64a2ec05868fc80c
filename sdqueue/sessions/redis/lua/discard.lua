-- Forget a record that can never be read again, where it still has this revision.
if redis.call('HGET', session, 'version') ~= ARGV[1] then return 0 end
return redis.call('DEL', session, history, turns, ids)

-- The lock stays: whoever holds it still works, and it ends by itself.
return redis.call('DEL', session, history, turns, ids, begun, token,
  backlog, refused, deferred, newest, refusals)

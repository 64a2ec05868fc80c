-- The backlog of a session, and the turns that were refused because it was full.
--   backlog   the turns that wait: id -> position
--   deferred  their messages, by the same ids
--   newest    the position given last
--   refused   the outcomes of refused turns, JSON, by id
--   refusals  the ids of refused turns, by the time of their refusal

-- How many turns wait, and the outcome of this one where it was refused.
local function standing(turn)
  return redis.call('ZCARD', backlog), redis.call('HGET', refused, turn) or ''
end

-- Start the life of all keys anew, those of the record too: a parked session has no saves.
local function touch(ttl)
  for _, key in ipairs({session, history, turns, ids, begun, backlog, refused, deferred, newest, refusals}) do
    redis.call('PEXPIRE', key, ttl)
  end
end

-- First part of every script: the keys of one session, all under one hash tag, and a cursor over the arguments.
-- A script that is given fewer keys uses only the first ones.
local lock, token, waiters, session, history, turns, ids, begun,
  backlog, refused, deferred, newest, refusals = unpack(KEYS)
local position = 0

local function argument()
  position = position + 1
  return ARGV[position]
end

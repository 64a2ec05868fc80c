-- The record of a session.
--   session  'version' (the revision: the version, and the life that it is of), 'head' (the record without messages and
--            turns, JSON) and 'items' (how many messages there are)
--   history  the messages, JSON each, oldest first
--   turns    the outcomes of the last turns with their replies, JSON each, oldest first
--   ids      the ids of all turns that are remembered, those of 'turns' among them, by the time they ended
--   begun    how often a turn was begun without an end, and STARTED for every beginning that was taken back after its
--            agent had started

local CHUNK = 1000  -- unpack cannot spread much more

local function append(key, count)
  local first = position + 1
  position = position + count
  for start = first, position, CHUNK do
    redis.call('RPUSH', key, unpack(ARGV, start, math.min(start + CHUNK - 1, position)))
  end
end

-- An outcome starts with its id and its time; a second one of the same turn starts with the same id. Sealed ones start
-- with the key and the id, up to the last colon.
local function forget(outcome)
  local stem = string.match(outcome, '^sealed.*:') or string.match(outcome, '^.-","at":')
  for _, old in ipairs(redis.call('LRANGE', turns, 0, -1)) do
    if stem and string.sub(old, 1, #stem) == stem then redis.call('LREM', turns, 1, old) end
  end
end

-- Only the revision where it is the one known to the caller or where there is no record (then it is empty).
local function load(known)
  local revision = redis.call('HGET', session, 'version')
  if not revision then return {''} end
  if revision == known then return {revision} end
  local fields = redis.call('HMGET', session, 'head', 'items')
  return {
    revision, fields[1], fields[2],
    redis.call('LRANGE', history, 0, -1),
    redis.call('LRANGE', turns, 0, -1),
    redis.call('ZRANGE', ids, 0, -1, 'WITHSCORES'),
  }
end

-- 'saved', or with nothing changed: 'short' where messages are missing that the caller takes for stored, else the
-- revision found, '0' for no record.
local function save()
  local expected, revision, head, items, ttl = argument(), argument(), argument(), argument(), argument()
  local kept, added = tonumber(argument()), tonumber(argument())
  local found = redis.call('HGET', session, 'version') or '0'
  if found ~= expected then return found end
  local size = redis.call('LLEN', history)
  if size < kept then return 'short' end

  redis.call('HSET', session, 'version', revision, 'head', head, 'items', items)
  if kept == 0 then
    redis.call('DEL', history)
  elseif size > kept then
    redis.call('LTRIM', history, 0, kept - 1)
  end
  append(history, added)

  local whole, ring, remembered = argument() == '1', tonumber(argument()), tonumber(argument())
  if whole then redis.call('DEL', turns, ids) end
  for _ = 1, tonumber(argument()) do
    local id, at, outcome = argument(), argument(), argument()
    if not whole and redis.call('ZSCORE', ids, id) then forget(outcome) end
    redis.call('ZADD', ids, at, id)
    if outcome ~= '' then redis.call('RPUSH', turns, outcome) end
  end
  for _ = 1, tonumber(argument()) do
    redis.call('HDEL', begun, argument())
  end
  if ring == 0 then
    redis.call('DEL', turns)
  else
    redis.call('LTRIM', turns, -ring, -1)
  end
  local forgotten = redis.call('ZCARD', ids) - remembered
  if forgotten > 0 then redis.call('ZREMRANGEBYRANK', ids, 0, forgotten - 1) end

  for _, key in ipairs({session, history, turns, ids, begun}) do
    redis.call('PEXPIRE', key, ttl)
  end
  return 'saved'
end

local function begin(turn, ttl)
  local count = redis.call('HINCRBY', begun, turn, 1)
  redis.call('PEXPIRE', begun, ttl)
  return count
end

local STARTED = 1048576  -- as in stores/store.py

local function rewind(turn, started)
  local count = tonumber(redis.call('HGET', begun, turn) or 0)
  if count % STARTED == 0 then return end
  if started == '1' then
    redis.call('HINCRBY', begun, turn, STARTED - 1)
  elseif count > 1 then
    redis.call('HINCRBY', begun, turn, -1)
  else
    redis.call('HDEL', begun, turn)
  end
end

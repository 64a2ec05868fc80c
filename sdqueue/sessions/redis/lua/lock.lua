-- The lock of a session.
--   lock     the holder's name, '<owner>:<number>', with the lock's life
--   token    the fencing token granted last; never goes back, not even where this key was lost, as it follows the clock
--   waiters  who waits: name -> '<ticket> <last seen> <life that it wants>', times in microseconds of this server
local me, life, token_life, channel = argument(), argument(), argument(), argument()

-- A living waiter asks again every half second; one not seen for so long is gone.
local STALE = 3000000
local WAITERS_LIFE = 10000

local function microseconds()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function grant(holder, holder_life)
  local fence = math.max(microseconds(), tonumber(redis.call('GET', token) or 0) + 1)
  fence = string.format('%.0f', fence)
  redis.call('SET', token, fence, 'PX', token_life)
  redis.call('SET', lock, holder, 'PX', holder_life)
  return fence
end

local function first_waiter()
  local entries = redis.call('HGETALL', waiters)
  if #entries == 0 then return nil end
  local horizon, first = microseconds() - STALE, nil
  for i = 1, #entries, 2 do
    local ticket, seen, wanted = string.match(entries[i + 1], '^(%d+) (%d+) (%d+)$')
    if tonumber(seen) < horizon then
      redis.call('HDEL', waiters, entries[i])
    elseif not first or tonumber(ticket) < first.ticket then
      first = {name = entries[i], ticket = tonumber(ticket), life = wanted}
    end
  end
  return first
end

local function hand_over(first)
  redis.call('HDEL', waiters, first.name)
  grant(first.name, first.life)
  -- Where the user may not publish, the waiter's own look makes up for it.
  redis.pcall('PUBLISH', channel .. string.match(first.name, '^[^:]+'), first.name)
end

local function register()
  local now = string.format('%.0f', microseconds())
  local ticket = string.match(redis.call('HGET', waiters, me) or now, '^%d+')
  redis.call('HSET', waiters, me, ticket .. ' ' .. now .. ' ' .. life)
  redis.call('PEXPIRE', waiters, WAITERS_LIFE)
end

-- The fencing token where the lock is mine now, else nil and its holder. 'dead' is a holder that may be passed over.
local function acquire(dead)
  local holder = redis.call('GET', lock)
  if holder == me then
    redis.call('PEXPIRE', lock, life)
    return redis.call('GET', token) or grant(me, life)
  end
  if holder and holder ~= dead then
    register()
    return nil, holder
  end
  local first = first_waiter()
  if first and first.name ~= me then
    register()
    hand_over(first)
    return nil, first.name
  end
  if first then redis.call('HDEL', waiters, me) end
  return grant(me, life)
end

local function release()
  if redis.call('GET', lock) ~= me then return false end
  redis.call('DEL', lock)
  local first = first_waiter()
  if first then hand_over(first) end
  return true
end

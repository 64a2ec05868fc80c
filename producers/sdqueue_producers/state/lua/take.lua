-- Take one call out of each bucket, or none out of any. KEYS: for each bucket its level, then its block. ARGV: the part
-- of each that must be left, then for each bucket how many calls it holds and the seconds in which it fills.
-- Returns 0 where they were taken, else the seconds to wait, as text. A level that has expired is a full bucket.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local reserve = tonumber(ARGV[1])
local wait, holds = 0, {}
for bucket = 1, #KEYS / 2 do
  local count, per_s = tonumber(ARGV[bucket * 2]), tonumber(ARGV[bucket * 2 + 1])
  local blocked = redis.call('PTTL', KEYS[bucket * 2])
  if blocked >= 0 then wait = math.max(wait, (blocked + 1) / 1000) end
  local calls = count
  local kept = redis.call('GET', KEYS[bucket * 2 - 1])
  if kept then
    local level, since = string.match(kept, '^(%S+) (%S+)$')
    calls = math.min(count, level + math.max(0, now - since) / 1000000 * count / per_s)
  end
  local needed = 1 + math.min(reserve * count, count - 1)
  if calls < needed then wait = math.max(wait, (needed - calls) * per_s / count + 0.001) end
  holds[bucket] = calls
end
local taken = wait > 0 and 0 or 1
for bucket = 1, #holds do
  -- Also where nothing was taken: by a clock that was set back, it fills from now on.
  local fills_ms = math.ceil(tonumber(ARGV[bucket * 2 + 1]) * 1000)
  redis.call('SET', KEYS[bucket * 2 - 1], string.format('%.17g %.0f', holds[bucket] - taken, now), 'PX', fills_ms)
end
return string.format('%.6f', wait)

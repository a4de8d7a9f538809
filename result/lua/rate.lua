-- rate: jobs of one tenant may go, the first ones as far as its rates last (GCRA: a key holds when its bucket is full).
-- KEYS  1 {T}:rate:requests, 2 {T}:rate:tokens
-- ARGV  1 requests a minute, 2 tokens a minute (0: no bound), then the cost of each job in tokens
-- returns how many may go, the bucket that holds the next one (0 none, 1 requests, 2 tokens) and for how long (us), then
--   of each bucket how long until it is full (us)
-- The clock is Redis' own: producers and schedulers on many hosts share the buckets. A bucket holds what comes in a
-- minute, and a job of more than that waits for a full one.
local time = redis.call('TIME')
local now, minute = time[1] * 1000000 + time[2], 60000000
local full, step = {}, {}
for b = 1, 2 do
  local limit = tonumber(ARGV[b])
  full[b] = math.max(now, tonumber(redis.call('GET', KEYS[b]) or 0))
  step[b] = limit > 0 and minute / limit or 0
end
local taken, by, wait = 0, 0, 0
for i = 3, #ARGV do
  local next = {full[1] + step[1], full[2] + math.min(ARGV[i] * step[2], minute)}
  for b = 1, 2 do
    if step[b] > 0 and next[b] - now - minute > math.max(wait, 1) then by, wait = b, next[b] - now - minute end
  end
  if by > 0 then break end
  full, taken = next, taken + 1
end
local out = {taken, by, math.ceil(wait)}
for b = 1, 2 do
  local left = math.max(0, math.ceil(full[b] - now))
  if step[b] > 0 and taken > 0 then redis.call('SET', KEYS[b], string.format('%.0f', full[b]), 'PX', math.ceil(left / 1000) + 1) end
  out[3 + b] = step[b] > 0 and left or 0
end
return out

-- release: jobs that a worker gives up are queued again.
-- KEYS  for each job: its hash, its {T}:batch:<id> ({T}:none where it is no line of one)
-- ARGV  for each job: token, attempts to give back (0 or 1), crashes to add (0 or 1)
-- returns how many were ours
local n = 0
for i = 1, #KEYS, 2 do
  local k, b = KEYS[i], KEYS[i + 1]
  local at = 1 + (i - 1) / 2 * 3
  local v = redis.call('HMGET', k, 'state', 'token')
  if v[1] == 'running' and v[2] == ARGV[at] then
    redis.call('HDEL', k, 'token', 'seq', 'until', 'worker')
    redis.call('HSET', k, 'state', 'queued')
    redis.call('HINCRBY', k, 'attempt', -tonumber(ARGV[at + 1]))
    redis.call('HINCRBY', k, 'crashes', ARGV[at + 2])
    if string.sub(b, -5) ~= ':none' then redis.call('HINCRBY', b, 'running', -1) end
    n = n + 1
  end
end
return n

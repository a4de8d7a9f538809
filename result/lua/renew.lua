-- renew: the claims that a worker holds are looked at again and held on.
-- KEYS  for each job: its hash, its {T}:batch:<id> ({T}:none where it is no line of one)
-- ARGV  1 now (ms), 2 lease (ms), 3 worker, then for each job: token, sequence, attempt, facts (JSON; '' of lines)
-- returns for each job: 0 still ours, 1 another claim took it, 2 it is over (cancelled, or answered elsewhere), or its batch is
-- A hash that is gone (Redis was lost) is made again: the worker's memory is as good.
local out = {}
for i = 1, #KEYS, 2 do
  local k, b = KEYS[i], KEYS[i + 1]
  local line = string.sub(b, -5) ~= ':none'
  local at = 4 + (i - 1) * 2
  local v = redis.call('HMGET', k, 'state', 'token')
  local stop = line and redis.call('HGET', b, 'stop')
  if v[1] and v[1] ~= 'queued' and v[1] ~= 'running' then
    out[#out + 1] = 2
  elseif v[2] and v[2] ~= ARGV[at] then
    out[#out + 1] = 1
  elseif stop then
    if v[1] then redis.call('HSET', k, 'state', stop) end
    if v[1] == 'running' then redis.call('HINCRBY', b, 'running', -1) end
    out[#out + 1] = 2
  else
    if ARGV[at + 3] ~= '' then redis.call('HSETNX', k, 'facts', ARGV[at + 3]) end
    if line and v[1] ~= 'running' then redis.call('HINCRBY', b, 'running', 1) end
    redis.call('HSETNX', k, 'attempt', ARGV[at + 2])
    redis.call('HSETNX', k, 'started', ARGV[1])
    redis.call('HSET', k, 'state', 'running', 'token', ARGV[at], 'seq', ARGV[at + 1], 'until', ARGV[1] + ARGV[2], 'worker', ARGV[3])
    out[#out + 1] = 0
  end
end
return out

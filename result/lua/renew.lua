-- renew: the claims that a worker holds are looked at again and held on.
-- KEYS  a job's hash each
-- ARGV  1 now (ms), 2 lease (ms), 3 worker, then for each job: token, sequence, attempt, facts (JSON)
-- returns for each job: 0 still ours, 1 another claim took it, 2 it is over (cancelled, or answered elsewhere)
-- A hash that is gone (Redis was lost) is made again: the worker's memory is as good.
local out = {}
for i, k in ipairs(KEYS) do
  local at = 4 + (i - 1) * 4
  local v = redis.call('HMGET', k, 'state', 'token')
  if v[1] and v[1] ~= 'queued' and v[1] ~= 'running' then
    out[i] = 2
  elseif v[2] and v[2] ~= ARGV[at] then
    out[i] = 1
  else
    redis.call('HSETNX', k, 'facts', ARGV[at + 3])
    redis.call('HSETNX', k, 'attempt', ARGV[at + 2])
    redis.call('HSETNX', k, 'started', ARGV[1])
    redis.call('HSET', k, 'state', 'running', 'token', ARGV[at], 'seq', ARGV[at + 1], 'until', ARGV[1] + ARGV[2], 'worker', ARGV[3])
    out[i] = 0
  end
end
return out

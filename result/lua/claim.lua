-- claim: a delivery's jobs, all of one tenant, begin to run under its token.
-- KEYS  for each job: its hash, its {T}:batch:<id> ({T}:none where it is no line of one)
-- ARGV  1 token, 2 now (ms), 3 lease (ms), 4 the delivery's sequence, 5 worker, then facts (JSON; '' of lines) for each job
-- returns for each job: code, attempt (this one included), crashes
--   code 0 run it, 1 another delivery holds it under a live lease, 2 it is over, or its batch is
-- The same sequence is a redelivery of our message: take over. Another one with a live lease is a duplicate.
-- A delivery's lines are of few batches: each is read and counted in once.
local out, stops, running = {}, {}, {}
local seq, lease = ARGV[4], ARGV[2] + ARGV[3]
for i = 1, #KEYS, 2 do
  local k, b = KEYS[i], KEYS[i + 1]
  local line = string.sub(b, -5) ~= ':none'
  if line and stops[b] == nil then stops[b], running[b] = redis.call('HGET', b, 'stop'), 0 end
  local v = redis.call('HMGET', k, 'state', 'seq', 'until', 'attempt', 'crashes')
  local attempt = tonumber(v[4] or 0)
  local code = 0
  if v[1] and v[1] ~= 'queued' and v[1] ~= 'running' then
    code = 2
  elseif line and stops[b] then
    code = 2
    if v[1] then redis.call('HSET', k, 'state', stops[b]) end
    if v[1] == 'running' then running[b] = running[b] - 1 end
  elseif v[1] == 'running' and v[2] ~= seq and tonumber(v[3] or 0) > tonumber(ARGV[2]) then
    code = 1
  else
    local facts = ARGV[5 + (i + 1) / 2]
    attempt = attempt + 1
    if facts == '' then -- nobody asks when a line began, or where
      redis.call('HSET', k, 'state', 'running', 'token', ARGV[1], 'seq', seq, 'until', lease, 'attempt', attempt)
    else
      redis.call('HSETNX', k, 'facts', facts)
      redis.call('HSET', k, 'state', 'running', 'token', ARGV[1], 'seq', seq, 'until', lease, 'attempt', attempt,
        'started', ARGV[2], 'worker', ARGV[5])
    end
    if line and v[1] ~= 'running' then running[b] = running[b] + 1 end
  end
  out[#out + 1] = code
  out[#out + 1] = attempt
  out[#out + 1] = tonumber(v[5] or 0)
end
for b, n in pairs(running) do
  if n ~= 0 then redis.call('HINCRBY', b, 'running', n) end
end
return out

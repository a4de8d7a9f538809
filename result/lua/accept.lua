-- accept: jobs of one tenant are queued. Without effect on a job that is known.
-- KEYS  1 {T}:jobs, then a job's hash each
-- ARGV  1 oldest created that is listed (ms), then for each job: id, created (ms), facts (JSON)
-- returns how many were new
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1])
local new = 0
for i = 2, #KEYS do
  local at = 2 + (i - 2) * 3
  if redis.call('HSETNX', KEYS[i], 'state', 'queued') == 1 then
    redis.call('HSET', KEYS[i], 'facts', ARGV[at + 2])
    redis.call('ZADD', KEYS[1], ARGV[at + 1], ARGV[at])
    new = new + 1
  end
end
return new

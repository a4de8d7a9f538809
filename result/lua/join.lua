-- join: a cacheable job is answered from the cache, follows an equal job that is under way, or leads.
-- KEYS  1 {T}:jobs, 2 the job's hash, 3 {T}:cache:<sha>, 4 {T}:flight:<sha>, 5 {T}:cacheidx
-- ARGV  1 id, 2 created (ms), 3 facts (JSON), 4 prefix of job hashes, 5 now (ms)
-- returns {0} lead, {1, leader} follow, {2, completion} hit, {3} the job is over already
local state = redis.call('HGET', KEYS[2], 'state')
if state and state ~= 'queued' and state ~= 'running' then return {3} end
local hit = redis.call('GET', KEYS[3])
if hit then
  local used = redis.call('ZSCORE', KEYS[5], KEYS[3])
  if used and ARGV[5] - used > 60000 then redis.call('ZADD', KEYS[5], ARGV[5], KEYS[3]) end -- a write goes to the AOF
  return {2, hit}
end
if not state then
  redis.call('HSET', KEYS[2], 'state', 'queued', 'facts', ARGV[3])
  redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
end
local leader = redis.call('GET', KEYS[4])
if leader and leader ~= ARGV[1] then
  local s = redis.call('HGET', ARGV[4] .. leader, 'state')
  if s == 'queued' or s == 'running' then return {1, leader} end
end
redis.call('SET', KEYS[4], ARGV[1], 'EX', 86400)
return {0}

-- join: a cacheable job is answered from the cache, follows an equal job that is under way, or leads.
-- KEYS  1 {T}:jobs, 2 the job's hash, 3 {T}:cache:<sha>, 4 {T}:flight:<sha>, 5 {T}:cacheidx
-- ARGV  1 id, 2 created (ms), 3 facts (JSON; '' of a batch's line, which is not listed), 4 prefix of job hashes, 5 now (ms),
--       6 how long it may lead queued (ms)
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
  redis.call('HSET', KEYS[2], 'state', 'queued')
  if ARGV[3] ~= '' then
    redis.call('HSET', KEYS[2], 'facts', ARGV[3])
    redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
  end
end
local leader = redis.call('GET', KEYS[4])
if leader and leader ~= ARGV[1] then
  -- A leader that stays queued for long may never have been submitted (its producer died first): another one leads, at
  -- the price of computing twice.
  local l = redis.call('HMGET', ARGV[4] .. leader, 'state', 'leads')
  if l[1] == 'running' or l[1] == 'queued' and tonumber(l[2] or 0) > tonumber(ARGV[5]) then return {1, leader} end
end
redis.call('SET', KEYS[4], ARGV[1], 'EX', 86400)
redis.call('HSET', KEYS[2], 'leads', ARGV[5] + ARGV[6])
return {0}

-- project: committed verdicts of one tenant become visible. Without effect on a job that is over.
-- KEYS  1 {T}:jobs, 2 {T}:usage:<day>, 3 {T}:cacheidx, 4 {T}:cachebytes,
--       then for each job: its hash, {T}:cache:<sha>, {T}:flight:<sha> ({T}:none where it has no cache key),
--       {T}:batch:<id> ({T}:none where it is no line of one)
-- ARGV  1 seconds that a verdict is kept, 2 now (ms), 3 seconds that an answer is cached, 4 bytes of cache,
--       then for each job: id, created (ms), state, facts (JSON; '' of lines), verdict (JSON; '' of lines), completion for
--       the cache or '', prompt tokens, cached tokens, completion tokens, engine microseconds, 1 if it was answered
--       without a run, 1 if that was by an equal line's run, 1 if it took more than one attempt
-- returns for each job 1 if this call ended it, else 0
-- A batch's line keeps its state only, and counts in its batch: RESULTS has what it came to. What is counted is summed
-- here and written once for all the jobs of the call.
local out = {}
local sums, keep = {}, {} -- by key: fields, and the seconds that the key is kept from now
local function add(key, field, n)
  if n ~= '0' then
    local s = sums[key]
    s[field] = (s[field] or 0) + n
  end
end
local function counts(key, seconds)
  sums[key], keep[key] = sums[key] or {}, seconds
end
for i = 5, #KEYS, 4 do
  local at = 5 + (i - 5) / 4 * 13
  local b = KEYS[i + 3]
  local k, id = KEYS[i], ARGV[at]
  local state = redis.call('HGET', k, 'state')
  if state and state ~= 'queued' and state ~= 'running' then
    out[#out + 1] = 0
  else
    if string.sub(b, -5) == ':none' then
      redis.call('HDEL', k, 'token', 'seq', 'until')
      redis.call('HSETNX', k, 'facts', ARGV[at + 3])
      redis.call('HSET', k, 'state', ARGV[at + 2], 'verdict', ARGV[at + 4])
      redis.call('ZADD', KEYS[1], ARGV[at + 1], id)
    else
      redis.call('HSET', k, 'state', ARGV[at + 2]) -- its claim goes with the hash, when the batch's files stand
      counts(b, 3456000)
      if state == 'running' then add(b, 'running', -1) end
      add(b, ARGV[at + 2], 1)
      add(b, 'prompt_tokens', ARGV[at + 6])
      add(b, 'cached_tokens', ARGV[at + 7])
      add(b, 'completion_tokens', ARGV[at + 8])
      if ARGV[at + 11] == '1' then
        add(b, 'deduplicated', 1)
      elseif ARGV[at + 10] == '1' then
        add(b, 'cached', 1)
      end
      if ARGV[at + 12] == '1' then add(b, 'retried', 1) end
    end
    redis.call('EXPIRE', k, ARGV[1])
    local u = KEYS[2]
    counts(u, 34560000)
    add(u, 'jobs_' .. ARGV[at + 2], 1)
    if ARGV[at + 10] == '1' then
      add(u, 'jobs_cached', 1)
    else
      add(u, 'prompt_tokens', ARGV[at + 6])
      add(u, 'cached_tokens', ARGV[at + 7])
      add(u, 'completion_tokens', ARGV[at + 8])
      add(u, 'engine_us', ARGV[at + 9])
    end
    local value, cache = ARGV[at + 5], KEYS[i + 1]
    if value ~= '' and #value <= tonumber(ARGV[4]) then
      local old = tonumber(redis.call('HGET', KEYS[4], cache) or 0)
      redis.call('SET', cache, value, 'EX', ARGV[3])
      redis.call('ZADD', KEYS[3], ARGV[2], cache)
      redis.call('HSET', KEYS[4], cache, #value)
      local total = redis.call('HINCRBY', KEYS[4], 'total', #value - old)
      while total > tonumber(ARGV[4]) do
        local oldest = redis.call('ZPOPMIN', KEYS[3])[1]
        if not oldest then break end
        local n = tonumber(redis.call('HGET', KEYS[4], oldest) or 0)
        redis.call('DEL', oldest)
        redis.call('HDEL', KEYS[4], oldest)
        total = redis.call('HINCRBY', KEYS[4], 'total', -n)
      end
    end
    local flight = KEYS[i + 2]
    if string.sub(flight, -5) ~= ':none' and redis.call('GET', flight) == id then redis.call('DEL', flight) end
    out[#out + 1] = 1
  end
end
for key, fields in pairs(sums) do
  for field, n in pairs(fields) do
    if n ~= 0 then redis.call('HINCRBY', key, field, n) end
  end
  redis.call('EXPIRE', key, keep[key])
end
return out

-- forget: a job that was not accepted after all leaves no trace. Only while it is queued.
-- KEYS  1 {T}:jobs, 2 the job's hash, 3 {T}:flight:<sha> or {T}:none, 4 {T}:idem:<sha> or {T}:none
-- ARGV  1 id
-- returns 1 if it was forgotten
local state = redis.call('HGET', KEYS[2], 'state')
if state and state ~= 'queued' then return 0 end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
local idem = redis.call('GET', KEYS[4])
if idem and string.sub(idem, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then redis.call('DEL', KEYS[4]) end
return 1

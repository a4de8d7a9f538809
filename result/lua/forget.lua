-- forget: a job that was not accepted after all leaves no trace, or under an idempotency key, where the next try of its
-- client submits it, leaves its flight. Only while it is queued.
-- KEYS  1 {T}:jobs, 2 the job's hash, 3 {T}:flight:<sha> or {T}:none, 4 {T}:idem:<sha> or {T}:none
-- ARGV  1 id, 2 '1' to leave the flight only
-- returns 1 if it was forgotten
local state = redis.call('HGET', KEYS[2], 'state')
if state and state ~= 'queued' then return 0 end
if redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
if ARGV[2] == '1' then return 1 end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
local idem = redis.call('GET', KEYS[4])
if idem and string.sub(idem, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then redis.call('DEL', KEYS[4]) end
return 1

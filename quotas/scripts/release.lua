#!lua flags=allow-oom
-- Ends a lease of a call that never left for the upstream: gives back what was reserved and writes no entry.
--
-- KEYS  epoch, leases, bucket, now
-- ARGV  1 epoch   2 request id   3 of the request that was counted, what the tier's bucket gets back
--       4… field, what it gets back, … of other buckets of requests (see quotas/given_back.py)
-- Answers {'ok', 1 or 0} or {'stale'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end
local lease = redis.call('HGET', KEYS[2], ARGV[2])
if not lease then return {'ok', 0} end
close(lease)
redis.call('HDEL', KEYS[2], ARGV[2])
-- What is more than it holds goes when it is looked at next. One that is not there any more is full.
local function fill(key, field, amount)
  local level = redis.call('HGET', key, field)
  if level then redis.call('HSET', key, field, level + amount) end
end
fill(KEYS[3], 't', ARGV[3])
for i = 4, #ARGV, 2 do fill(KEYS[4], ARGV[i], ARGV[i + 1]) end
return {'ok', 1}

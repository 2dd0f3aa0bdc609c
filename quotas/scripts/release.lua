#!lua flags=allow-oom
-- Ends a lease of a call that never left for the upstream: gives back what was reserved and writes no entry.
--
-- KEYS  epoch, leases, lease, quota
-- ARGV  1 epoch   2 request id
-- Answers {'ok', 1 or 0} or {'stale'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end
local reserved = redis.call('HGET', KEYS[3], 'r')
if not reserved then return {'ok', 0} end
redis.call('HINCRBY', KEYS[4], 'reserved', -reserved)
redis.call('DEL', KEYS[3])
redis.call('ZREM', KEYS[2], ARGV[2])
return {'ok', 1}

#!lua flags=allow-oom
-- Ends a lease of a call that never left for the upstream: gives back what was reserved and writes no entry.
--
-- KEYS  epoch, leases, lease, quota
-- ARGV  1 epoch   2 request id
-- Answers {'ok', 1 or 0} or {'stale'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end
local lease = redis.call('HMGET', KEYS[3], 'r', 'h', 'm')
if not lease[1] then return {'ok', 0} end
redis.call('HINCRBY', KEYS[4], 'reserved', -lease[1])
if lease[2] then give_back(lease[2], lease[1], lease[3], 0) end
redis.call('DEL', KEYS[3])
redis.call('ZREM', KEYS[2], ARGV[2])
return {'ok', 1}

#!lua flags=allow-oom
-- Ends a lease of a call that never left for the upstream: gives back what was reserved and writes no entry.
--
-- KEYS  epoch, leases
-- ARGV  1 epoch   2 request id
-- Answers {'ok', 1 or 0} or {'stale'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end
local lease = redis.call('HGET', KEYS[2], ARGV[2])
if not lease then return {'ok', 0} end
close(lease)
redis.call('HDEL', KEYS[2], ARGV[2])
return {'ok', 1}

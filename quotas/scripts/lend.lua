#!lua flags=allow-oom
-- A call that a gateway let in by itself gets the lease that it would have had, out of the gateway's share, so that it
-- is settled like any other. Without an entry: the gateway's spool has it. Harmless to repeat, as a settle is.
--
-- KEYS  epoch, leases, quota, share (or the lease again where there is none), lease, tombstone
-- ARGV  1 epoch   2 request id   3 tokens   4 lease, ms   5 gateway   6 quota expires, s
-- Answers {'ok'} or {'stale'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end
if redis.call('EXISTS', KEYS[5], KEYS[6]) > 0 then return {'ok'} end
local tokens = tonumber(ARGV[3])
local taken = math.min(tokens, tonumber(redis.call('HGET', KEYS[4], 'r')) or 0)
if taken > 0 then redis.call('HINCRBY', KEYS[4], 'r', -taken) end
-- A share that is gone does not make undone what was used of it.
redis.call('HINCRBY', KEYS[3], 'reserved', tokens - taken)
redis.call('EXPIREAT', KEYS[3], ARGV[6])
redis.call('HSET', KEYS[5], 'q', KEYS[3], 'r', tokens, 'g', ARGV[5])
local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[4]), ARGV[2])
return {'ok'}

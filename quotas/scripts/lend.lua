#!lua flags=allow-oom
-- A call that a gateway let in by itself gets the lease that it would have had, out of the gateway's share, so that it
-- is settled like any other. Without an entry: the gateway's spool has it. Harmless to repeat, as a settle is.
--
-- KEYS  epoch, leases, quota, tombstone
-- ARGV  1 epoch   2 request id   3 tokens   4 lease, ms   5 what the lease holds   6 quota expires, s
--       7 the share's id, or empty where there is none
-- Answers {'ok'} or {'stale'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 1 or redis.call('EXISTS', KEYS[4]) == 1 then return {'ok'} end
local tokens, taken = tonumber(ARGV[3]), 0
local share = redis.call('HGET', KEYS[2], ARGV[7])
if share then
  local deadline, held = struct.unpack('>dd', share)
  taken = math.min(tokens, held)
  redis.call('HSET', KEYS[2], ARGV[7], struct.pack('>dd', deadline, held - taken) .. string.sub(share, 17))
end
-- A share that is gone does not make undone what was used of it.
redis.call('HINCRBY', KEYS[3], 'reserved', tokens - taken)
redis.call('EXPIREAT', KEYS[3], ARGV[6])
local time = redis.call('TIME')
local deadline = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4]
redis.call('HSET', KEYS[2], ARGV[2], struct.pack('>ddd', deadline, tokens, 0) .. ARGV[5])
return {'ok'}

#!lua flags=allow-oom
-- Reserved becomes used, and the call is in the journal: both or neither, once, however often it is called.
--
-- KEYS  epoch, journal, leases, lease, tombstone, quota
-- ARGV  1 epoch   2 request id   3 tokens used   4 entry   5 tombstone, s   6 quota expires, s
-- Answers {'ok', stream id} or {'stale'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end

local reserved = redis.call('HGET', KEYS[4], 'r')
local how = 'lease'
if reserved then
  redis.call('HINCRBY', KEYS[6], 'reserved', -reserved)
  redis.call('DEL', KEYS[4])
  redis.call('ZREM', KEYS[3], ARGV[2])
else
  local settled = redis.call('GET', KEYS[5])
  if settled then return {'ok', settled} end
  how = 'late'
end
redis.call('HINCRBY', KEYS[6], 'used', ARGV[3])
redis.call('EXPIREAT', KEYS[6], ARGV[6])
local id = redis.call('XADD', KEYS[2], '*', 'e', ARGV[4], 's', how)
redis.call('SET', KEYS[5], id, 'EX', ARGV[5])
return {'ok', id}

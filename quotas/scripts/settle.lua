#!lua flags=allow-oom
-- Reserved becomes used, and the call is in the journal: both or neither, once, however often it is called.
--
-- KEYS  epoch, journal, leases, quota, lease, tombstone
-- ARGV  1 epoch   2 tombstone, s   3 quota expires, s   4 request id   5 tokens used   6 entry
-- Answers {'ok', stream id} or {'stale'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end

local reserved = redis.call('HGET', KEYS[5], 'r')
local how = 'lease'
if reserved then
  redis.call('HINCRBY', KEYS[4], 'reserved', -reserved)
  redis.call('DEL', KEYS[5])
  redis.call('ZREM', KEYS[3], ARGV[4])
else
  local settled = redis.call('GET', KEYS[6])
  if settled then return {'ok', settled} end
  how = 'late'
end
redis.call('HINCRBY', KEYS[4], 'used', ARGV[5])
redis.call('EXPIREAT', KEYS[4], ARGV[3])
local id = redis.call('XADD', KEYS[2], '*', 'e', ARGV[6], 's', how)
redis.call('SET', KEYS[6], id, 'EX', ARGV[2])
return {'ok', id}

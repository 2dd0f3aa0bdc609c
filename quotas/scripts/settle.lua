#!lua flags=allow-oom
-- Reserved becomes used, and the call is in the journal: both or neither, once, however often it is called.
--
-- KEYS  epoch, journal, leases, quota, month, day, lease, tombstone
-- ARGV  1 epoch   2 tombstone, s   3 month expires, s   4 day expires, s   5 … 8 fields (see spend.lua)
--       9 request id   10 tokens used   11 cost, nano-units   12 entry
-- Answers {'ok', stream id} or {'stale'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end

local lease = redis.call('HMGET', KEYS[7], 'r', 'h', 'm')
local how = 'lease'
if lease[1] then
  redis.call('HINCRBY', KEYS[4], 'reserved', -lease[1])
  if lease[2] then give_back(lease[2], lease[1], lease[3], ARGV[10]) end
  redis.call('DEL', KEYS[7])
  redis.call('ZREM', KEYS[3], ARGV[9])
else
  local settled = redis.call('GET', KEYS[8])
  if settled then return {'ok', settled} end
  how = 'late'
end
redis.call('HINCRBY', KEYS[4], 'used', ARGV[10])
redis.call('EXPIREAT', KEYS[4], ARGV[3])
spend(KEYS[5], KEYS[6], ARGV[10], ARGV[11], 5, ARGV[3], ARGV[4])
local id = redis.call('XADD', KEYS[2], '*', 'e', ARGV[12], 's', how)
redis.call('SET', KEYS[8], id, 'EX', ARGV[2])
return {'ok', id}

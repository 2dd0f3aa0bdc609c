#!lua flags=allow-oom
-- Reserved becomes used, and the call is in the journal: both or neither, once, however often it is called.
--
-- KEYS  epoch, journal, leases, quota, month, day, tombstone
-- ARGV  1 what is the same for every call of a pair: epoch; tombstone, month expires, day expires, s; 4 fields (see
--       spend.lua)   2 request id   3 tokens used, cost in nano-units   4 entry
-- Answers the entry's stream id, or {'stale'}
local epoch, tombstone, month_expires, day_expires, of_key, of_all, of_key_money, of_service = struct.unpack('>sdddssss', ARGV[1])
if redis.call('GET', KEYS[1]) ~= epoch then return {'stale'} end

local tokens, nano = struct.unpack('>dd', ARGV[3])
local now, month, day, quota = {}, {}, {}, {'used', tokens}
local lease = redis.call('HGET', KEYS[3], ARGV[2])
local how = 'lease'
if lease then
  local need, names = give_back(lease, tokens, now, month, day)
  quota[3], quota[4] = 'reserved', -need
  add(names[3], now)
  redis.call('HDEL', KEYS[3], ARGV[2])
else
  local settled = redis.call('GET', KEYS[7])
  if settled then return settled end
  how = 'late'
end
spend(month, day, tokens, nano, of_key, of_all, of_key_money, of_service)
add(KEYS[4], quota, month_expires)
add(KEYS[5], month, month_expires)
add(KEYS[6], day, day_expires)
local id = redis.call('XADD', KEYS[2], '*', 'e', ARGV[4], 's', how)
redis.call('SET', KEYS[7], id, 'EX', tombstone)
return id

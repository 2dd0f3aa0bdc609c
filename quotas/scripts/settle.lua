#!lua flags=allow-oom
-- Reserved becomes used, and the call is in the journal: both or neither, once, however often it is called.
--
-- KEYS  epoch, journal, leases, quota, month, day, tombstone
-- ARGV  1 what is the same for every call of a pair: epoch; tombstone, month expires, day expires, s; 4 fields (see
--       spend.lua)   2 request id   3 tokens used, cost in nano-units   4 entry
-- Answers the entry's stream id, or {'stale'}
local call = redis.call
local epoch, tombstone, month_expires, day_expires, of_key, of_all, of_key_money, of_service = struct.unpack('>sdddssss', ARGV[1])
if call('GET', KEYS[1]) ~= epoch then return {'stale'} end

local tokens, nano = struct.unpack('>dd', ARGV[3])
local lease, how, quota = call('HGET', KEYS[3], ARGV[2]), 'lease', nil
local month, day = spend(tokens, nano, of_key, of_all, of_key_money, of_service)
if lease then
  local now = {}
  local need, names = give_back(lease, tokens, now, month, day)
  quota = {'used', tokens, 'reserved', -need}
  if names then add(names[3], now) end
  call('HDEL', KEYS[3], ARGV[2])
else
  local settled = call('GET', KEYS[7])
  if settled then return settled end
  how, quota = 'late', {'used', tokens}
end
add(KEYS[4], quota, month_expires)
add(KEYS[5], month, month_expires)
add(KEYS[6], day, day_expires)
local id = call('XADD', KEYS[2], '*', 'e', ARGV[4], 's', how)
call('SET', KEYS[7], id, 'EX', tombstone)
return id

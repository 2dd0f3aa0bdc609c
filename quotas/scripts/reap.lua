#!lua flags=allow-oom
-- Closes leases that nobody settled: gives back what they hold and journals them as unsettled.
-- No tombstone: a settle that comes after all must still count, as late.
--
-- KEYS  epoch, leases, journal, leases of former versions
-- ARGV  1 epoch   2 grace, ms   3 about how many to look at   4 where to go on, 0 at first
--       5… ids to close whatever their deadline (then 2 to 4 are unused)
-- Answers {'ok', how many, where to go on or 0} or {'stale'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end
local closed = 0
local function reap(id, lease)
  local entry = close(lease)
  -- A share of a gateway is no call, and of one that was let in out of it the spool tells.
  if entry <= #lease then redis.call('XADD', KEYS[3], '*', 'e', string.sub(lease, entry), 's', 'reaped') end
  redis.call('HDEL', KEYS[2], id)
  closed = closed + 1
end
if #ARGV > 4 then
  for i = 5, #ARGV do
    local lease = redis.call('HGET', KEYS[2], ARGV[i])
    if lease then reap(ARGV[i], lease) end
  end
  return {'ok', closed, '0'}
end
local time = redis.call('TIME')
local late = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[2]
if ARGV[4] == '0' then adopt(KEYS[4], KEYS[2], late + ARGV[2]) end
local some = redis.call('HSCAN', KEYS[2], ARGV[4], 'COUNT', ARGV[3])
for i = 1, #some[2], 2 do
  local lease = some[2][i + 1]
  -- A scan may name one twice.
  if struct.unpack('>d', lease) <= late and redis.call('HEXISTS', KEYS[2], some[2][i]) == 1 then
    reap(some[2][i], lease)
  end
end
return {'ok', closed, some[1]}

#!lua flags=allow-oom
-- Closes leases that nobody settled: gives back what they hold and journals them as unsettled.
-- No tombstone: a settle that comes after all must still count, as late.
--
-- KEYS  epoch, leases, journal
-- ARGV  1 epoch   2 grace, ms   3 most   4 tag of the shard   5… ids to close whatever their deadline (then 2 is unused)
-- Answers {'ok', how many} or {'stale'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end
local ids = {}
if #ARGV > 4 then
  for i = 5, #ARGV do ids[#ids + 1] = ARGV[i] end
else
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[2]), 'LIMIT', 0, ARGV[3])
end
local closed = 0
for _, id in ipairs(ids) do
  local key = ARGV[4] .. ':lease:' .. id
  local lease = redis.call('HMGET', key, 'q', 'r', 'e', 'h', 'm')
  if lease[1] then
    redis.call('HINCRBY', lease[1], 'reserved', -lease[2])
    if lease[4] then give_back(lease[4], lease[2], lease[5], 0) end
    -- A share of a gateway is no call, and of one that was let in out of it the spool tells.
    if lease[3] then redis.call('XADD', KEYS[3], '*', 'e', lease[3], 's', 'reaped') end
    redis.call('DEL', key)
    closed = closed + 1
  end
  redis.call('ZREM', KEYS[2], id)
end
return {'ok', closed}

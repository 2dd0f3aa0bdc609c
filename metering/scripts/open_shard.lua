#!lua flags=allow-oom
-- Opens a shard under a new epoch, its counters being as the ledger has them: adds what the leases that exist hold.
--
-- KEYS  opening, epoch, leases, watermark, journal, leases of former versions
-- ARGV  1 number of the epoch   2 the epoch   3 watermark   4 smallest stream id to keep   5 expiry of what the ledger does not
--       know, s
-- Answers 1, or 0 where somebody else is opening the shard by now
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
adopt(KEYS[6], KEYS[3], '+inf')
for key, fields in pairs(held(KEYS[3])) do
  for field, amount in pairs(fields) do redis.call('HSET', key, field, string.format('%.0f', amount)) end
  if fields.reserved then redis.call('HSETNX', key, 'used', 0) end
  if redis.call('TTL', key) < 0 then redis.call('EXPIREAT', key, ARGV[5]) end
end
redis.call('SET', KEYS[4], ARGV[3])
redis.call('XTRIM', KEYS[5], 'MINID', ARGV[4])
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[2])
return 1

#!lua flags=allow-oom
-- Opens a shard under a new epoch: counters as the ledger has them, reserved as the leases that exist hold it.
--
-- KEYS  epoch, leases, watermark, journal, quotas …
-- ARGV  1 epoch   2 watermark   3 smallest stream id to keep   4 tag of the shard   5 expiry of a quota the ledger
--       does not know, s   6… used, expires of each quota
local held = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local lease = redis.call('HMGET', ARGV[4] .. ':lease:' .. id, 'q', 'r')
  if lease[1] then
    held[lease[1]] = (held[lease[1]] or 0) + tonumber(lease[2])
  else
    redis.call('ZREM', KEYS[2], id)
  end
end
for i = 5, #KEYS do
  local key, at = KEYS[i], 6 + (i - 5) * 2
  redis.call('HSET', key, 'used', ARGV[at], 'reserved', string.format('%d', held[key] or 0))
  redis.call('EXPIREAT', key, ARGV[at + 1])
  held[key] = nil
end
for key, reserved in pairs(held) do
  redis.call('HSET', key, 'used', 0, 'reserved', string.format('%d', reserved))
  redis.call('EXPIREAT', key, ARGV[5])
end
redis.call('SET', KEYS[3], ARGV[2])
redis.call('XTRIM', KEYS[4], 'MINID', ARGV[3])
redis.call('SET', KEYS[1], ARGV[1])
return 1

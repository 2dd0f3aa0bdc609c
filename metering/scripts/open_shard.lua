#!lua flags=allow-oom
-- Opens a shard under a new epoch, its counters being as the ledger has them: adds what the leases that exist hold.
--
-- KEYS  opening, epoch, leases, watermark, journal
-- ARGV  1 number of the epoch   2 the epoch   3 watermark   4 smallest stream id to keep   5 tag of the shard   6 expiry of what
--       the ledger does not know, s
-- Answers 1, or 0 where somebody else is opening the shard by now
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local held = {} -- by key and field
local function hold(key, field, amount)
  held[key] = held[key] or {}
  held[key][field] = (held[key][field] or 0) + tonumber(amount)
end
for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  local lease = redis.call('HMGET', ARGV[5] .. ':lease:' .. id, 'q', 'r', 'h', 'm')
  if lease[1] then
    hold(lease[1], 'reserved', lease[2])
    local now, month, day
    for kind, field, limit in string.gmatch(lease[3] or '', '(%S+) (%S+) (%S+)') do
      if not now then
        now, month, day = kind, field, limit
      elseif kind == 'c' then
        hold(now, field, 1)
      elseif kind == 't' then
        hold(month, field, lease[2])
      elseif kind ~= 'p' then
        hold(kind == 'm' and month or day, field, lease[4])
      end
    end
  else
    redis.call('ZREM', KEYS[3], id)
  end
end
for key, fields in pairs(held) do
  for field, amount in pairs(fields) do redis.call('HSET', key, field, string.format('%.0f', amount)) end
  if fields.reserved then redis.call('HSETNX', key, 'used', 0) end
  if redis.call('TTL', key) < 0 then redis.call('EXPIREAT', key, ARGV[6]) end
end
redis.call('SET', KEYS[4], ARGV[3])
redis.call('XTRIM', KEYS[5], 'MINID', ARGV[4])
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[2])
return 1

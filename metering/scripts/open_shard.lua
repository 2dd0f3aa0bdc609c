#!lua flags=allow-oom
-- Opens a shard under a new epoch, its counters being as the ledger has them: adds what the leases that exist hold.
--
-- KEYS  opening, epoch, leases, watermark, journal, leases of former versions
-- ARGV  1 number of the epoch   2 the epoch   3 watermark   4 smallest stream id to keep   5 expiry of what the ledger does not
--       know, s
-- Answers 1, or 0 where somebody else is opening the shard by now
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local held = {} -- by key and field
local function hold(key, field, amount)
  held[key] = held[key] or {}
  held[key][field] = (held[key][field] or 0) + tonumber(amount)
end
adopt(KEYS[6], KEYS[3], '+inf')
for _, lease in ipairs(redis.call('HVALS', KEYS[3])) do
  local now, month, day = {}, {}, {}
  -- As if all were spent: buckets are kept as they are.
  local need, names = give_back(lease, (select(2, struct.unpack('>dd', lease))), now, month, day)
  names = names or names_of(lease, 0)
  hold(names[2], 'reserved', need)
  for key, changes in pairs({[3] = now, [4] = month, [5] = day}) do
    for i = 1, #changes, 2 do
      if changes[i + 1] < 0 then hold(names[key], changes[i], -changes[i + 1]) end
    end
  end
end
for key, fields in pairs(held) do
  for field, amount in pairs(fields) do redis.call('HSET', key, field, string.format('%.0f', amount)) end
  if fields.reserved then redis.call('HSETNX', key, 'used', 0) end
  if redis.call('TTL', key) < 0 then redis.call('EXPIREAT', key, ARGV[5]) end
end
redis.call('SET', KEYS[4], ARGV[3])
redis.call('XTRIM', KEYS[5], 'MINID', ARGV[4])
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[2])
return 1

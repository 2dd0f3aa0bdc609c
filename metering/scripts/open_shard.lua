#!lua flags=allow-oom
-- Opens a shard under a new epoch: counters as the ledger has them, reserved as the leases that exist hold it.
--
-- KEYS  epoch, leases, watermark, journal, quotas …, spent (of months and days) …
-- ARGV  1 epoch   2 watermark   3 smallest stream id to keep   4 tag of the shard   5 expiry of what the ledger does
--       not know, s   6 how many quotas   then used, expires of each quota; fields as JSON, expires of each spent
local held = {} -- by key and field
local function hold(key, field, amount)
  held[key] = held[key] or {}
  held[key][field] = (held[key][field] or 0) + tonumber(amount)
end
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local lease = redis.call('HMGET', ARGV[4] .. ':lease:' .. id, 'q', 'r', 'h', 'm')
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
    redis.call('ZREM', KEYS[2], id)
  end
end

local function set(key, used, expires)
  for field, amount in pairs(used) do redis.call('HSET', key, field, amount) end
  for field, amount in pairs(held[key] or {}) do redis.call('HSET', key, field, string.format('%.0f', amount)) end
  redis.call('EXPIREAT', key, expires)
  held[key] = nil
end
local quotas = tonumber(ARGV[6])
for i = 1, #KEYS - 4 do
  local key, used, expires = KEYS[4 + i], ARGV[5 + 2 * i], ARGV[6 + 2 * i]
  if i <= quotas then
    set(key, {used = used, reserved = 0}, expires)
  else
    redis.call('DEL', key)
    set(key, cjson.decode(used), expires)
  end
end
-- What the ledger does not know has used nothing yet.
for key in pairs(held) do set(key, held[key].reserved and {used = 0} or {}, ARGV[5]) end
redis.call('SET', KEYS[3], ARGV[2])
redis.call('XTRIM', KEYS[4], 'MINID', ARGV[3])
redis.call('SET', KEYS[1], ARGV[1])
return 1

#!lua
-- Makes a gateway's share of a quota as large as it wants it. It only grows up to its part of what remains: then all
-- gateways together hold no more than that. A share is a lease without an entry (see lease.lua).
--
-- KEYS  epoch, leases, quota
-- ARGV  1 epoch   2 the share's id   3 tokens wanted   4 tokens/month   5 gateways allowed   6 share, ms
--       7 what the lease holds   8 quota expires, s   9 ms in which no share may grow from now on, or 0
-- Answers {'ok', tokens held, tokens that remain besides, 1 where no share may grow now} or {'stale'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local wanted, limit, gateways = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local counters = redis.call('HMGET', KEYS[3], 'used', 'reserved', 'crowded')
local used, reserved = tonumber(counters[1]) or 0, tonumber(counters[2]) or 0
local crowded = tonumber(counters[3]) or 0
if ARGV[9] ~= '0' then
  crowded = now + tonumber(ARGV[9])
  redis.call('HSET', KEYS[3], 'crowded', crowded)
end
local is_crowded = crowded > now

local share = redis.call('HGET', KEYS[2], ARGV[2])
local held = 0
if share then held = select(2, struct.unpack('>dd', share)) end
local size = wanted
if wanted > held then
  local part = math.floor((limit - used - reserved + held) / gateways)
  size = is_crowded and held or math.max(held, math.min(wanted, part))
end
if size ~= held then redis.call('HINCRBY', KEYS[3], 'reserved', size - held) end
if redis.call('TTL', KEYS[3]) == -1 then redis.call('EXPIREAT', KEYS[3], ARGV[8]) end
if size > 0 then
  redis.call('HSET', KEYS[2], ARGV[2], struct.pack('>ddd', now + ARGV[6], size, 0) .. ARGV[7])
elseif held > 0 then
  redis.call('HDEL', KEYS[2], ARGV[2])
end
return {'ok', size, limit - used - reserved - size + held, is_crowded and 1 or 0}

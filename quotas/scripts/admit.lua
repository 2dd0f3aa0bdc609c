#!lua
-- All limits or none. Consumes nothing unless every limit lets the call in.
--
-- KEYS  epoch, journal, leases, bucket, quota, lease
-- ARGV  1 epoch              2 journal bound      3 lease, ms             4 requests/s or ''
--       5 tokens/month or '' 6 quota expires, s   7 gateway               8 request id
--       9 the id's time, ms 10 caller's deadline, ms of this clock       11 prompt bound
--      12 output cap        13 choices (n)       14 '1' where the caller named the cap
--      15 entry if nobody settles
--
-- Answers
--   {'ok', output cap, bucket left, ms until the bucket is full, used, reserved}
--   {'rate', retry after s, bucket left}     {'forbidden'}
--   {'quota', used, reserved}                used tokens alone refuse it
--   {'reserved', used, reserved}             running calls hold what is missing
--   {'stale'} {'late'} {'skew'} {'full'}     epoch differs, caller has gone, clocks differ, journal at its bound
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now > tonumber(ARGV[10]) then return {'late'} end
if math.abs(now - tonumber(ARGV[9])) > 5000 then return {'skew'} end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[2]) then return {'full'} end

-- Request rate: a token bucket that holds one second's worth.
local rate = tonumber(ARGV[4])
local left, full_in = -1, 0
if rate then
  if rate == 0 then return {'forbidden'} end
  local bucket = redis.call('HMGET', KEYS[4], 't', 'at')
  left = tonumber(bucket[1]) or rate
  local since = math.max(0, now - (tonumber(bucket[2]) or now))
  left = math.min(rate, left + since / 1000 * rate)
  if left < 1 then return {'rate', math.ceil((1 - left) / rate), math.floor(left)} end
  left = left - 1
  full_in = math.ceil((rate - left) / rate * 1000)
end

-- Monthly tokens: an upper bound of this call must fit beside what is used and what running calls may use.
local limit = tonumber(ARGV[5])
local prompt, cap, choices = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local counters = redis.call('HMGET', KEYS[5], 'used', 'reserved')
local used, reserved = tonumber(counters[1]) or 0, tonumber(counters[2]) or 0
if limit then
  local least = cap
  if ARGV[14] ~= '1' then
    cap = math.max(1, math.min(cap, math.floor((limit - used - reserved - prompt) / choices)))
    least = 1
  end
  if used + prompt + choices * least > limit then return {'quota', used, reserved} end
  if used + reserved + prompt + choices * cap > limit then return {'reserved', used, reserved} end
end

local need = prompt + choices * cap
if rate then
  redis.call('HSET', KEYS[4], 't', string.format('%.6f', left), 'at', now)
  redis.call('PEXPIRE', KEYS[4], 5000)
end
reserved = redis.call('HINCRBY', KEYS[5], 'reserved', need)
redis.call('EXPIREAT', KEYS[5], ARGV[6])
redis.call('HSET', KEYS[6], 'q', KEYS[5], 'r', need, 'g', ARGV[7], 'e', ARGV[15])
redis.call('ZADD', KEYS[3], now + tonumber(ARGV[3]), ARGV[8])
return {'ok', cap, math.floor(left), full_in, used, reserved}

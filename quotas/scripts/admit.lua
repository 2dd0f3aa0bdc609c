#!lua
-- All limits or none. Consumes nothing unless every limit lets the call in.
--
-- KEYS  epoch, journal, leases, bucket, quota, lease; where there are further limits: now, month, day
-- ARGV  1 epoch              2 journal bound      3 lease, ms             4 requests/s or ''
--       5 tokens/month or '' 6 quota expires, s   7 gateway               8 request id
--       9 the id's time, ms 10 caller's deadline, ms of this clock       11 prompt bound
--      12 output cap        13 choices (n)       14 '1' where the caller named the cap
--      15 entry if nobody settles
--   where there are further limits (see quotas/limits.py):
--      16 hold: what gives back needs to know    17 kinds: one letter a limit    18 day expires, s
--      19 nano-units of any call   20 of a prompt token   21 of an output token
--      22 … 25 how many limits are counted in now, with how many fields, in month, in day; then their fields (of a
--      bucket: level, time; in month and day: used, reserved); then the limits, in the order of their kinds
--
-- Answers; i is 0 for the tier's rate and quota, else the further limit's place; the last three tell of the tightest
-- bucket of requests: what is left in it, ms until it is full, its size (-1 where there is none)
--   {'ok', output cap, left, full in, size}
--   {'forbidden', i, 0, 0, left, full in, size}
--   {'rate', i, retry after s, 0, …}         {'running', i, running calls, 0, …}
--   {'tokens', i, retry after s, 0, …}       retry 0: a whole minute would not do
--   {'spent', i, used, reserved, …}          what is used alone refuses it
--   {'reserved', i, used, reserved, …}       running calls hold what is missing
--   {'stale'} {'late'} {'skew'} {'full'}     epoch differs, caller has gone, clocks differ, journal at its bound
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now > tonumber(ARGV[10]) then return {'late'} end
if math.abs(now - tonumber(ARGV[9])) > 5000 then return {'skew'} end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[2]) then return {'full'} end

-- Request rate: a token bucket that holds one second's worth.
local rate = tonumber(ARGV[4])
local level = -1
local left, full_in, size = -1, 0, -1
local function refuse(what, i, a, b) return {what, i, a, b, math.floor(left), math.ceil(full_in), size} end
if rate then
  if rate == 0 then return refuse('forbidden', 0, 0, 0) end
  local bucket = redis.call('HMGET', KEYS[4], 't', 'at')
  local since = math.max(0, now - (tonumber(bucket[2]) or now))
  level = math.min(rate, (tonumber(bucket[1]) or rate) + since / 1000 * rate)
  left, full_in, size = level, (rate - level) / rate * 1000, rate
  if level < 1 then return refuse('rate', 0, math.ceil((1 - level) / rate), 0) end
end

local quota = tonumber(ARGV[5])
local prompt, cap, choices = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local named = ARGV[14] == '1'
local counters = redis.call('HMGET', KEYS[5], 'used', 'reserved')
local used, reserved = tonumber(counters[1]) or 0, tonumber(counters[2]) or 0

-- Further limits. What the call costs: whatever it says (base), and for each token of output (unit).
local KINDS, FIELDS = 17, 26
local in_now, in_month, in_day, month_at = 0, 0, 0, 0
local limits_at, base, unit = 0, 0, 0
local held, month, day
local minute = {}
if ARGV[KINDS] then
  in_now, in_month, in_day = tonumber(ARGV[22]), tonumber(ARGV[24]), tonumber(ARGV[25])
  month_at = FIELDS + tonumber(ARGV[23])
  local day_at = month_at + 2 * in_month
  limits_at = day_at + 2 * in_day - 1
  base, unit = tonumber(ARGV[19]) + prompt * tonumber(ARGV[20]), tonumber(ARGV[21])
  if in_now > 0 then held = redis.call('HMGET', KEYS[7], unpack(ARGV, FIELDS, month_at - 1)) end
  if in_month > 0 then month = redis.call('HMGET', KEYS[8], unpack(ARGV, month_at, day_at - 1)) end
  if in_day > 0 then day = redis.call('HMGET', KEYS[9], unpack(ARGV, day_at, limits_at)) end
  local at = 1 -- where the limit's fields begin
  for i = 1, in_now do
    local kind, limit, value = string.byte(ARGV[KINDS], i), tonumber(ARGV[limits_at + i]), tonumber(held[at])
    if limit == 0 then return refuse('forbidden', i, 0, 0) end
    if kind == 99 then -- c: calls that run
      value = value or 0
      if value >= limit then return refuse('running', i, value, 0) end
      held[at] = value + 1
      at = at + 1
    else -- b: a bucket of requests, for a second; p: one of tokens, for a minute
      local rate_ms = limit / (kind == 98 and 1000 or 60000)
      value = math.min(limit, (value or limit) + math.max(0, now - (tonumber(held[at + 1]) or now)) * rate_ms)
      if kind == 98 then
        if left < 0 or value < left then left, full_in, size = value, (limit - value) / rate_ms, limit end
        if value < 1 then return refuse('rate', i, math.ceil((1 - value) / limit), 0) end
        value = value - 1
      else
        minute[#minute + 1] = {i, at, limit, value}
        if not named then cap = math.min(cap, math.floor((limit - prompt) / choices)) end
      end
      held[at], held[at + 1] = value, now
      at = at + 2
    end
  end
end

-- What is used, reserved and allowed, by the limit's place.
local function spending(i)
  if i == 0 then return used, reserved, quota, prompt, 1 end
  local limit = tonumber(ARGV[limits_at + in_now + i])
  local of, at = month, 2 * i
  if i > in_month then of, at = day, 2 * (i - in_month) end
  local fixed, each = base, unit
  if string.byte(ARGV[KINDS], in_now + i) == 116 then fixed, each = prompt, 1 end -- t: tokens
  return tonumber(of[at - 1]) or 0, tonumber(of[at]) or 0, limit, fixed, each
end

local first, last = quota and 0 or 1, in_month + in_day
local least = 1
if named then
  least = cap
else
  for i = first, last do
    local spent, taken, limit, fixed, each = spending(i)
    if each > 0 then cap = math.min(cap, math.floor((limit - spent - taken - fixed) / (choices * each))) end
  end
  cap = math.max(1, cap)
end
for i = first, last do
  local spent, taken, limit, fixed, each = spending(i)
  if limit == 0 or spent + fixed + choices * least * each > limit then
    return refuse('spent', i > 0 and i + in_now or 0, spent, taken)
  end
end
for i = first, last do
  local spent, taken, limit, fixed, each = spending(i)
  if spent + taken + fixed + choices * cap * each > limit then
    return refuse('reserved', i > 0 and i + in_now or 0, spent, taken)
  end
end
local need = prompt + choices * cap
for _, bucket in ipairs(minute) do
  local i, at, limit, value = unpack(bucket)
  if need > limit then return refuse('tokens', i, 0, 0) end
  if need > value then return refuse('tokens', i, math.ceil((need - value) * 60 / limit), 0) end
  held[at] = value - need
end

-- Nothing refuses it.
if rate then
  redis.call('HSET', KEYS[4], 't', string.format('%.6f', level - 1), 'at', now)
  redis.call('PEXPIRE', KEYS[4], 5000)
end
redis.call('HINCRBY', KEYS[5], 'reserved', need)
if not counters[2] then redis.call('EXPIREAT', KEYS[5], ARGV[6]) end
if ARGV[KINDS] then
  local money = base + choices * cap * unit
  if in_now > 0 then
    local set = {}
    for i = 1, #held do
      set[2 * i - 1], set[2 * i] = ARGV[FIELDS + i - 1], held[i]
    end
    redis.call('HSET', KEYS[7], unpack(set))
    redis.call('EXPIRE', KEYS[7], 86400)
  end
  for i = 1, in_month + in_day do
    local amount = string.byte(ARGV[KINDS], in_now + i) == 116 and need or money
    redis.call('HINCRBY', i > in_month and KEYS[9] or KEYS[8], ARGV[month_at + 2 * i - 1], amount)
  end
  if in_month > 0 then redis.call('EXPIREAT', KEYS[8], ARGV[6]) end
  if in_day > 0 then redis.call('EXPIREAT', KEYS[9], ARGV[18]) end
  redis.call('HSET', KEYS[6], 'q', KEYS[5], 'r', need, 'g', ARGV[7], 'e', ARGV[15], 'h', ARGV[16], 'm', money)
else
  redis.call('HSET', KEYS[6], 'q', KEYS[5], 'r', need, 'g', ARGV[7], 'e', ARGV[15])
end
redis.call('ZADD', KEYS[3], now + tonumber(ARGV[3]), ARGV[8])
if size < 0 then return {'ok', cap, -1, 0, -1} end
return {'ok', cap, math.floor(left - 1), math.ceil(full_in + 1000 / size), size}

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
local bucket_at
local function refuse(what, i, a, b) return {what, i, a, b, math.floor(left), math.ceil(full_in), size} end
if rate then
  if rate == 0 then return refuse('forbidden', 0, 0, 0) end
  local bucket = redis.call('HMGET', KEYS[4], 't', 'at')
  bucket_at = tonumber(bucket[2])
  local since = math.max(0, now - (bucket_at or now))
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
  if in_now > 0 then held = redis.call('HMGET', KEYS[7], 'kept:at', unpack(ARGV, FIELDS, month_at - 1)) end
  if in_month > 0 then month = redis.call('HMGET', KEYS[8], unpack(ARGV, month_at, day_at - 1)) end
  if in_day > 0 then day = redis.call('HMGET', KEYS[9], unpack(ARGV, day_at, limits_at)) end
  local at = 2 -- where the limit's fields begin; the first is the hour in which the hash was prolonged
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

-- What is used, reserved and allowed, and what the call costs, by the limit's place; 0 is the quota.
local first, last = quota and 0 or 1, in_month + in_day
local spent, taken, allowed, fixed, each = {[0] = used}, {[0] = reserved}, {[0] = quota}, {[0] = prompt}, {[0] = 1}
for i = 1, last do
  local of, at = month, 2 * i
  if i > in_month then of, at = day, 2 * (i - in_month) end
  spent[i], taken[i] = tonumber(of[at - 1]) or 0, tonumber(of[at]) or 0
  allowed[i] = tonumber(ARGV[limits_at + in_now + i])
  fixed[i], each[i] = base, unit
  if string.byte(ARGV[KINDS], in_now + i) == 116 then fixed[i], each[i] = prompt, 1 end -- t: tokens
end
local least = cap
if not named then
  for i = first, last do
    if each[i] > 0 then
      cap = math.min(cap, math.floor((allowed[i] - spent[i] - taken[i] - fixed[i]) / (choices * each[i])))
    end
  end
  cap = math.max(1, cap)
  least = 1
end
for i = first, last do
  if allowed[i] == 0 or spent[i] + fixed[i] + choices * least * each[i] > allowed[i] then
    return refuse('spent', i > 0 and i + in_now or 0, spent[i], taken[i])
  end
end
for i = first, last do
  if spent[i] + taken[i] + fixed[i] + choices * cap * each[i] > allowed[i] then
    return refuse('reserved', i > 0 and i + in_now or 0, spent[i], taken[i])
  end
end
local need = prompt + choices * cap
for _, bucket in ipairs(minute) do
  local i, at, limit, value = unpack(bucket)
  if need > limit then return refuse('tokens', i, 0, 0) end
  if need > value then return refuse('tokens', i, math.ceil((need - value) * 60 / limit), 0) end
  held[at] = value - need
end

-- Nothing refuses it. Whatever is written anyway is written at once, and prolonged only now and then: what a call
-- costs is mostly the number of commands.
if rate then
  redis.call('HSET', KEYS[4], 't', string.format('%.6f', level - 1), 'at', now)
  -- Within a second it is full again, and without it, it is full.
  if not bucket_at or math.floor(bucket_at / 1000) ~= math.floor(now / 1000) then
    redis.call('PEXPIRE', KEYS[4], 10000)
  end
end
redis.call('HINCRBY', KEYS[5], 'reserved', need)
if not counters[2] then redis.call('EXPIREAT', KEYS[5], ARGV[6]) end
-- Reserves what is needed of pairs of used and reserved, from the limit's place on.
local function reserve(key, of, first, count, money, expires)
  local set, is_new = {}, true
  for i = 1, count do
    local amount = string.byte(ARGV[KINDS], in_now + first + i) == 116 and need or money
    set[2 * i - 1] = ARGV[month_at + 2 * (first + i) - 1]
    set[2 * i] = (tonumber(of[2 * i]) or 0) + amount
    if of[2 * i - 1] or of[2 * i] then is_new = false end
  end
  redis.call('HSET', key, unpack(set))
  if is_new then redis.call('EXPIREAT', key, expires) end
end
if ARGV[KINDS] then
  local money = base + choices * cap * unit
  if in_now > 0 then
    local hour = math.floor(now / 3600000)
    local set = {}
    for i = 2, #held do
      set[2 * i - 3], set[2 * i - 2] = ARGV[FIELDS + i - 2], held[i]
    end
    if tonumber(held[1]) ~= hour then
      redis.call('HSET', KEYS[7], 'kept:at', hour, unpack(set))
      redis.call('EXPIRE', KEYS[7], 172800)
    else
      redis.call('HSET', KEYS[7], unpack(set))
    end
  end
  if in_month > 0 then reserve(KEYS[8], month, 0, in_month, money, ARGV[6]) end
  if in_day > 0 then reserve(KEYS[9], day, in_month, in_day, money, ARGV[18]) end
  redis.call('HSET', KEYS[6], 'q', KEYS[5], 'r', need, 'g', ARGV[7], 'e', ARGV[15], 'h', ARGV[16], 'm', money)
else
  redis.call('HSET', KEYS[6], 'q', KEYS[5], 'r', need, 'g', ARGV[7], 'e', ARGV[15])
end
redis.call('ZADD', KEYS[3], now + tonumber(ARGV[3]), ARGV[8])
if size < 0 then return {'ok', cap, -1, 0, -1} end
return {'ok', cap, math.floor(left - 1), math.ceil(full_in + 1000 / size), size}

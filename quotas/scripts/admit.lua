#!lua
-- All limits or none. Consumes nothing unless every limit lets the call in.
--
-- KEYS  epoch, journal, leases, bucket, quota; where there are further limits: now, month, day
-- ARGV  1 how 2 is packed   2 what is the same for every call of a pair   3 what the lease holds (see lease.lua)
--       4 request id   5 the call: the id's time, ms; caller's deadline, ms of this clock; prompt bound; output cap;
--       choices (n); 1 where the caller named the cap   6 entry if nobody settles
--   2, by number; -1 is unlimited:
--       1 epoch              2 journal bound      3 lease, ms             4 requests/s
--       5 tokens/month       6 quota expires, s
--   where there are further limits (see quotas/limits.py):
--       7 day expires, s     8 nano-units of any call   9 of a prompt token   10 of an output token
--      11 … 14 how many limits are counted in now, with how many fields, in month, in day; then of each limit, in the
--      order of their kinds: how much, and the letter of its kind; then their fields (of a bucket: level, time; in month
--      and day: used, reserved)
--
-- Answers, packed as four doubles where the call is let in: output cap; and of the tightest bucket of requests what is
-- left in it, ms until it is full, its size (-1 where there is none). Else, with the same three at the end (i is 0 for
-- the tier's rate and quota, else the further limit's place):
--   {'forbidden', i, 0, 0, left, full in, size}
--   {'rate', i, retry after s, 0, …}         {'running', i, running calls, 0, …}
--   {'tokens', i, retry after s, 0, …}       retry 0: a whole minute would not do
--   {'spent', i, used, reserved, …}          what is used alone refuses it
--   {'reserved', i, used, reserved, …}       running calls hold what is missing
--   {'stale'} {'late'} {'skew'} {'full'}     epoch differs, caller has gone, clocks differ, journal at its bound
local of = {struct.unpack(ARGV[1], ARGV[2])}
if redis.call('GET', KEYS[1]) ~= of[1] then return {'stale'} end

local at, deadline, prompt, cap, choices, named = struct.unpack('>dddddd', ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now > deadline then return {'late'} end
if math.abs(now - at) > 5000 then return {'skew'} end
if redis.call('XLEN', KEYS[2]) >= of[2] then return {'full'} end
named = named == 1

-- Request rate: a token bucket that holds one second's worth.
local rate = of[4]
local left, full_in, size = -1, 0, -1
local level, bucket_at
local function refuse(what, i, a, b) return {what, i, a, b, math.floor(left), math.ceil(full_in), size} end
if rate >= 0 then
  if rate == 0 then return refuse('forbidden', 0, 0, 0) end
  local bucket = redis.call('HMGET', KEYS[4], 't', 'at')
  bucket_at = tonumber(bucket[2])
  level = rate
  if bucket_at then level = math.min(rate, bucket[1] + math.max(0, now - bucket_at) / 1000 * rate) end
  left, full_in, size = level, (rate - level) / rate * 1000, rate
  if level < 1 then return refuse('rate', 0, math.ceil((1 - level) / rate), 0) end
end

local quota = of[5]
local counters = redis.call('HMGET', KEYS[5], 'used', 'reserved')
local used, reserved = tonumber(counters[1]) or 0, tonumber(counters[2]) or 0

-- Further limits: calls that run, and buckets. What the call costs: whatever it says (base), and for each token of
-- output (unit).
local LIMITS = 13 -- of[LIMITS + 2 * i]: how much of limit i; of[LIMITS + 2 * i + 1]: its kind
local in_now, in_month, in_day, now_at, month_at, day_at = 0, 0, 0
local base, unit = 0, 0
local held, month, day, minute
if KEYS[6] then
  in_now, in_month, in_day = of[11], of[13], of[14]
  now_at = LIMITS + 2 * (in_now + in_month + in_day) + 2
  month_at = now_at + of[12]
  day_at = month_at + 2 * in_month
  base, unit = of[8] + prompt * of[9], of[10]
  if in_now > 0 then held = redis.call('HMGET', KEYS[6], 'kept:at', unpack(of, now_at, month_at - 1)) end
  if in_month > 0 then month = redis.call('HMGET', KEYS[7], unpack(of, month_at, day_at - 1)) end
  if in_day > 0 then day = redis.call('HMGET', KEYS[8], unpack(of, day_at, day_at + 2 * in_day - 1)) end
  local at = 2 -- where the limit's fields begin; the first is the hour in which the hash was prolonged
  for i = 1, in_now do
    local limit, kind, value = of[LIMITS + 2 * i], of[LIMITS + 2 * i + 1], tonumber(held[at])
    if limit == 0 then return refuse('forbidden', i, 0, 0) end
    if kind == 99 then -- c: calls that run
      value = value or 0
      if value >= limit then return refuse('running', i, value, 0) end
      held[at] = value + 1
      at = at + 1
    else -- b: a bucket of requests, for a second; p: one of tokens, for a minute
      local rate_ms = limit / (kind == 98 and 1000 or 60000)
      value = value and math.min(limit, value + math.max(0, now - (held[at + 1] or now)) * rate_ms) or limit
      if kind == 98 then
        if left < 0 or value < left then left, full_in, size = value, (limit - value) / rate_ms, limit end
        if value < 1 then return refuse('rate', i, math.ceil((1 - value) / limit), 0) end
        value = value - 1
      else
        minute = minute or {}
        minute[#minute + 1] = {i, at, limit, value}
        if not named then cap = math.min(cap, math.floor((limit - prompt) / choices)) end
      end
      held[at], held[at + 1] = value, now
      at = at + 2
    end
  end
end

-- The further limits of month and day by place: what is used, reserved and allowed; what the call costs, and each token of
-- its cap. No tables: they cost as much as commands.
local first, last = in_now + 1, in_now + in_month + in_day
local state = last >= first and function(i)
  local found, at = month, 2 * (i - in_now)
  if at > 2 * in_month then found, at = day, at - 2 * in_month end
  local used, reserved, allowed = tonumber(found[at - 1]) or 0, tonumber(found[at]) or 0, of[LIMITS + 2 * i]
  if of[LIMITS + 2 * i + 1] == 116 then return used, reserved, allowed, prompt, choices end -- t: tokens
  return used, reserved, allowed, base, choices * unit
end
local least = cap
if not named then
  if quota >= 0 then cap = math.min(cap, math.floor((quota - used - reserved - prompt) / choices)) end
  for i = first, last do
    local used, reserved, allowed, fixed, each = state(i)
    if each > 0 then cap = math.min(cap, math.floor((allowed - used - reserved - fixed) / each)) end
  end
  cap = math.max(1, cap)
  least = 1
end
local need = prompt + choices * cap
if quota == 0 or quota > 0 and used + prompt + choices * least > quota then return refuse('spent', 0, used, reserved) end
local short = quota > 0 and used + reserved + need > quota and 0 -- the first limit that running calls hold
for i = first, last do
  local used, reserved, allowed, fixed, each = state(i)
  if allowed == 0 or used + fixed + least * each > allowed then return refuse('spent', i, used, reserved) end
  if not short and used + reserved + fixed + cap * each > allowed then short = i end
end
if short == 0 then return refuse('reserved', 0, used, reserved) end
if short then
  local used, reserved = state(short)
  return refuse('reserved', short, used, reserved)
end
if minute then
  for _, bucket in ipairs(minute) do
    local i, at, limit, value = unpack(bucket)
    if need > limit then return refuse('tokens', i, 0, 0) end
    if need > value then return refuse('tokens', i, math.ceil((need - value) * 60 / limit), 0) end
    held[at] = value - need
  end
end

-- Nothing refuses it. Whatever is written anyway is written at once, and prolonged only now and then: what a call
-- costs is mostly the number of commands.
if rate > 0 then
  redis.call('HSET', KEYS[4], 't', level - 1, 'at', now)
  -- Within a second it is full again, and without it, it is full.
  if not bucket_at or math.floor(bucket_at / 1000) ~= math.floor(now / 1000) then
    redis.call('PEXPIRE', KEYS[4], 10000)
  end
end
redis.call('HSET', KEYS[5], 'reserved', reserved + need)
if not counters[2] then redis.call('EXPIREAT', KEYS[5], of[6]) end
local money = 0
if KEYS[6] then
  money = base + choices * cap * unit
  if in_now > 0 then
    -- As long as it will be: a table that grows is allocated anew each time.
    local set, hour = {unpack(of, now_at, month_at + of[12] - 1)}, math.floor(now / 3600000)
    for i = 1, of[12] do
      set[2 * i - 1], set[2 * i] = of[now_at + i - 1], held[i + 1]
    end
    if tonumber(held[1]) ~= hour then
      redis.call('HSET', KEYS[6], 'kept:at', hour, unpack(set, 1, 2 * of[12]))
      redis.call('EXPIRE', KEYS[6], 172800)
    else
      redis.call('HSET', KEYS[6], unpack(set, 1, 2 * of[12]))
    end
  end
  -- Reserves what is needed, of limits from a place on whose pairs of fields begin at another.
  local function reserve(key, found, place, count, fields, expires)
    local set, is_new = {unpack(of, fields, fields + 2 * count - 1)}, true
    for i = 1, count do
      local amount = of[LIMITS + 2 * (place + i) + 1] == 116 and need or money
      if found[2 * i - 1] or found[2 * i] then is_new = false end
      set[2 * i - 1], set[2 * i] = set[2 * i], (tonumber(found[2 * i]) or 0) + amount
    end
    redis.call('HSET', key, unpack(set))
    if is_new then redis.call('EXPIREAT', key, expires) end
  end
  if in_month > 0 then reserve(KEYS[7], month, in_now, in_month, month_at, of[6]) end
  if in_day > 0 then reserve(KEYS[8], day, in_now + in_month, in_day, day_at, of[7]) end
end
redis.call('HSET', KEYS[3], ARGV[4], struct.pack('>ddd', now + of[3], need, money) .. ARGV[3] .. ARGV[6])
if size < 0 then return struct.pack('>dddd', cap, -1, 0, -1) end
return struct.pack('>dddd', cap, math.floor(left - 1), math.ceil(full_in + 1000 / size), size)

#!lua
-- All limits or none. Consumes nothing unless every limit lets the call in.
--
-- KEYS  epoch, journal, leases, bucket, quota; where there are further limits: now, month, day
-- ARGV  1 what is the same for every call of a pair   2 request id   3 the call: the id's time, ms; caller's deadline, ms
--       of this clock; prompt bound; output cap; choices (n); 1 where the caller named the cap
--       4 the lease but for its deadline, tokens and money (see lease.lua)
--   1, in order; -1 is unlimited: epoch; journal bound; lease, ms; requests/s; tokens/month; quota expires, s
--   and then, where there are further limits (see quotas/limits.py): how the rest is packed; and the rest, by number:
--       1 day expires, s     2 nano-units of any call   3 of a prompt token   4 of an output token
--       5 … 8 how many limits are counted in now, with how many fields, in month, in day; then of each limit, in the
--       order of their kinds: how much, and the letter of its kind; then names of fields, as they are read and as they
--       are written (of a bucket: level, time; in month and day: reserved, used)
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
local call, floor, min, max = redis.call, math.floor, math.min, math.max
local epoch, bound, lease_ms, rate, quota, quota_expires, rest = struct.unpack('>sddddd', ARGV[1])
if call('GET', KEYS[1]) ~= epoch then return {'stale'} end

local at, deadline, prompt, cap, choices, named = struct.unpack('>dddddd', ARGV[3])
local time = call('TIME')
local now = time[1] * 1000 + floor(time[2] / 1000)
if now > deadline then return {'late'} end
if math.abs(now - at) > 5000 then return {'skew'} end
if call('XLEN', KEYS[2]) >= bound then return {'full'} end
named = named == 1

local LIMITS = 7 -- of[LIMITS + 2 * i]: how much of limit i; of[LIMITS + 2 * i + 1]: its kind, c b p t m d
local of, in_now, in_fields, in_month, in_day, now_at, set_at, month_at, day_at
local left, full_in, size = -1, 0, -1
local counters, used, reserved, need, money, level, bucket_at, held, month, day, month_kept, day_kept
local what, place, a, b = nil, 0, 0, 0 -- what refuses the call, which of its limits, and what is told of it

-- Left by whatever refuses. A script's functions and tables are made anew for each call, and cost as much as commands:
-- what is written is put where the further limits' fields are, over names of those that are only read.
repeat
  -- Request rate: a token bucket that holds one second's worth.
  if rate == 0 then what = 'forbidden' break end
  if rate > 0 then
    local bucket = call('HMGET', KEYS[4], 't', 'at')
    bucket_at = tonumber(bucket[2])
    level = bucket_at and min(rate, bucket[1] + max(0, now - bucket_at) / 1000 * rate) or rate
    left, full_in, size = level, (rate - level) / rate * 1000, rate
    if level < 1 then what, a = 'rate', math.ceil((1 - level) / rate) break end
  end
  counters = call('HMGET', KEYS[5], 'used', 'reserved')
  used, reserved = tonumber(counters[1]) or 0, tonumber(counters[2]) or 0

  -- Further limits: calls that run, and buckets.
  local has_minutes = false
  if KEYS[6] then
    local layout, from = struct.unpack('s', ARGV[1], rest)
    of = {struct.unpack(layout, ARGV[1], from)}
    in_now, in_fields, in_month, in_day = unpack(of, 5, 8)
    now_at = LIMITS + 2 * (in_now + in_month + in_day) + 2
    set_at = now_at + in_fields
    month_at = set_at + 2 * in_fields
    day_at = month_at + 2 * in_month
    if in_now > 0 then held = call('HMGET', KEYS[6], 'kept:at', unpack(of, now_at, set_at - 1)) end
    if in_month > 0 then month = call('HMGET', KEYS[7], unpack(of, month_at, day_at - 1)) end
    if in_day > 0 then day = call('HMGET', KEYS[8], unpack(of, day_at, day_at + 2 * in_day - 1)) end
    local at = 2 -- where the limit's fields begin; the first is the hour in which the hash was prolonged
    for i = 1, in_now do
      local limit, kind, value, set = of[LIMITS + 2 * i], of[LIMITS + 2 * i + 1], tonumber(held[at]), set_at + 2 * at - 3
      place = i
      if limit == 0 then what = 'forbidden' break end
      if kind == 99 then -- c: calls that run
        value = value or 0
        if value >= limit then what, a = 'running', value break end
        of[set] = value + 1
        at = at + 1
      else -- b: a bucket of requests, for a second; p: one of tokens, for a minute
        local rate_ms = limit / (kind == 98 and 1000 or 60000)
        value = value and min(limit, value + max(0, now - (held[at + 1] or now)) * rate_ms) or limit
        if kind == 98 then
          if left < 0 or value < left then left, full_in, size = value, (limit - value) / rate_ms, limit end
          if value < 1 then what, a = 'rate', math.ceil((1 - value) / limit) break end
          value = value - 1
        else
          has_minutes = true
          if not named then cap = min(cap, floor((limit - prompt) / choices)) end
        end
        of[set], of[set + 2] = value, now
        at = at + 2
      end
    end
    if what then break end
    place = 0
  end

  -- Of month and day: what is used and reserved, as numbers; and where the caller named no cap, what remains is one. What
  -- the call costs: whatever it says (base), and for each token of output (unit).
  local base, unit, spent = 0, 0, of and in_month + in_day or 0
  if of then base, unit = of[2] + prompt * of[3], choices * of[4] end
  local least = cap
  if not named and quota >= 0 then cap = min(cap, floor((quota - used - reserved - prompt) / choices)) end
  for i = 1, spent do
    local found, at = month, 2 * i
    if i > in_month then found, at = day, 2 * (i - in_month) end
    local reserved, used = tonumber(found[at - 1]) or 0, tonumber(found[at]) or 0
    if found[at - 1] or found[at] then month_kept, day_kept = month_kept or i <= in_month, day_kept or i > in_month end
    found[at - 1], found[at] = reserved, used
    if not named then
      local limit, fixed, each = LIMITS + 2 * (in_now + i), base, unit
      if of[limit + 1] == 116 then fixed, each = prompt, choices end -- t: tokens
      if each > 0 then cap = min(cap, floor((of[limit] - used - reserved - fixed) / each)) end
    end
  end
  if not named then cap, least = max(1, cap), 1 end
  need, money = prompt + choices * cap, base + cap * unit

  if quota == 0 or quota > 0 and used + prompt + choices * least > quota then what, a, b = 'spent', used, reserved break end
  local short = quota > 0 and used + reserved + need > quota and 0 -- the first limit that running calls hold
  for i = 1, spent do
    local found, at, set = month, 2 * i, month_at
    if i > in_month then found, at, set = day, 2 * (i - in_month), day_at end
    local reserved, used = found[at - 1], found[at]
    local allowed, amount, fixed, each = of[LIMITS + 2 * (in_now + i)], money, base, unit
    if of[LIMITS + 2 * (in_now + i) + 1] == 116 then amount, fixed, each = need, prompt, choices end
    if allowed == 0 or used + fixed + least * each > allowed then
      what, place, a, b = 'spent', in_now + i, used, reserved
      break
    end
    if not short and used + reserved + amount > allowed then short, a, b = in_now + i, used, reserved end
    of[set + at - 1] = reserved + amount
  end
  if what then break end
  if short then
    what, place = 'reserved', short
    if short == 0 then a, b = used, reserved end
    break
  end
  if has_minutes then
    local set = set_at + 1
    for i = 1, in_now do
      local limit, kind = of[LIMITS + 2 * i], of[LIMITS + 2 * i + 1]
      if kind == 112 then
        place = i
        if need > limit then what = 'tokens' break end
        if need > of[set] then what, a = 'tokens', math.ceil((need - of[set]) * 60 / limit) break end
        of[set] = of[set] - need
      end
      set = set + (kind == 99 and 2 or 4)
    end
  end
until true
if what then return {what, place, a, b, floor(left), math.ceil(full_in), size} end

-- Nothing refuses it. Whatever is written anyway is written at once, and prolonged only now and then: what a call
-- costs is mostly the number of commands.
if rate > 0 then
  call('HSET', KEYS[4], 't', level - 1, 'at', now)
  -- Within a second it is full again, and without it, it is full.
  if not bucket_at or floor(bucket_at / 1000) ~= floor(now / 1000) then call('PEXPIRE', KEYS[4], 10000) end
end
call('HSET', KEYS[5], 'reserved', reserved + need)
if not counters[2] then call('EXPIREAT', KEYS[5], quota_expires) end
if of then
  if in_now > 0 then
    call('HSET', KEYS[6], unpack(of, set_at, month_at - 1))
    local hour = floor(now / 3600000)
    if tonumber(held[1]) ~= hour then
      call('HSET', KEYS[6], 'kept:at', hour)
      call('EXPIRE', KEYS[6], 172800)
    end
  end
  if in_month > 0 then
    call('HSET', KEYS[7], unpack(of, month_at, day_at - 1))
    if not month_kept then call('EXPIREAT', KEYS[7], quota_expires) end
  end
  if in_day > 0 then
    call('HSET', KEYS[8], unpack(of, day_at, day_at + 2 * in_day - 1))
    if not day_kept then call('EXPIREAT', KEYS[8], of[1]) end
  end
end
call('HSET', KEYS[3], ARGV[2], struct.pack('>ddd', now + lease_ms, need, money) .. ARGV[4])
if size < 0 then return struct.pack('>dddd', cap, -1, 0, -1) end
return struct.pack('>dddd', cap, floor(left - 1), math.ceil(full_in + 1000 / size), size)

-- Counts what a call used beside its quota: tokens of its key in the month; money of consumer, key and service in
-- month and day. Always, whether it is limited or not: a limit that is set later finds what was used before.
-- at: where in ARGV key's field of tokens and three fields of money begin.
local function spend(month, day, tokens, nano, at, month_expires, day_expires)
  if tokens ~= '0' then redis.call('HINCRBY', month, ARGV[at], tokens) end
  if nano ~= '0' then
    for i = at + 1, at + 3 do
      redis.call('HINCRBY', month, ARGV[i], nano)
      redis.call('HINCRBY', day, ARGV[i], nano)
    end
    redis.call('EXPIREAT', day, day_expires)
  end
  redis.call('EXPIREAT', month, month_expires)
end

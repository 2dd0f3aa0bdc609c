#!lua flags=allow-oom
-- Counts a replayed call, once: it came to the journal without touching its counters. Where its lease is still open, what
-- it holds is given back in the same moment, and a settle that comes after all finds it settled.
--
-- KEYS  marker, quota, month, day, leases, tombstone
-- ARGV  1 tokens   2 month expires, s   3 marker kept, s   4 cost, nano-units   5 day expires, s
--       6 … 9 fields (see spend.lua)   10 request id   11 stream id   12 tombstone kept, s
-- Answers 1 or 0
if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[3]) then return 0 end
local tokens = tonumber(ARGV[1])
local now, quota = {}, {'used', tokens}
local month, day = spend(tokens, tonumber(ARGV[4]), unpack(ARGV, 6, 9))
local lease = redis.call('HGET', KEYS[5], ARGV[10])
if lease then
  local need, names = give_back(lease, tokens, now, month, day)
  quota = {'used', tokens, 'reserved', -need}
  if names then add(names[3], now) end
  redis.call('HDEL', KEYS[5], ARGV[10])
  redis.call('SET', KEYS[6], ARGV[11], 'EX', ARGV[12])
end
add(KEYS[2], quota, ARGV[2])
add(KEYS[3], month, ARGV[2])
add(KEYS[4], day, ARGV[5])
return 1

#!lua flags=allow-oom
-- Counts a replayed call, once: it came to the journal without touching its counters.
--
-- KEYS  marker, quota, month, day
-- ARGV  1 tokens   2 month expires, s   3 marker kept, s   4 cost, nano-units   5 day expires, s
--       6 … 9 fields (see spend.lua)
-- Answers 1 or 0
if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[3]) then return 0 end
redis.call('HINCRBY', KEYS[2], 'used', ARGV[1])
redis.call('EXPIREAT', KEYS[2], ARGV[2])
spend(KEYS[3], KEYS[4], ARGV[1], ARGV[4], 6, ARGV[2], ARGV[5])
return 1

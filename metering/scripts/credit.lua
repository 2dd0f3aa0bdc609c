#!lua flags=allow-oom
-- Counts a replayed call, once: it came to the journal without touching its counters.
--
-- KEYS  marker, quota, month, day
-- ARGV  1 tokens   2 month expires, s   3 marker kept, s   4 cost, nano-units   5 day expires, s
--       6 … 9 fields (see spend.lua)
-- Answers 1 or 0
if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[3]) then return 0 end
local month, day, tokens = {}, {}, tonumber(ARGV[1])
spend(month, day, tokens, tonumber(ARGV[4]), unpack(ARGV, 6, 9))
add(KEYS[2], {'used', tokens}, ARGV[2])
add(KEYS[3], month, ARGV[2])
add(KEYS[4], day, ARGV[5])
return 1

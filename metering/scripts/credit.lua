#!lua flags=allow-oom
-- Counts a replayed call, once: it came to the journal without touching its counter.
--
-- KEYS  marker, quota
-- ARGV  1 tokens   2 quota expires, s   3 marker kept, s
-- Answers 1 or 0
if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[3]) then return 0 end
redis.call('HINCRBY', KEYS[2], 'used', ARGV[1])
redis.call('EXPIREAT', KEYS[2], ARGV[2])
return 1

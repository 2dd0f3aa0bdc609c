#!lua flags=allow-oom
-- Moves a counter by a difference that was found, never to a value: calls go on meanwhile.
--
-- KEYS  epoch, quota
-- ARGV  1 epoch   2 difference   3 quota expires, s
-- Answers 1, or 0 where the shard has another epoch by now
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HINCRBY', KEYS[2], 'used', ARGV[2])
redis.call('EXPIREAT', KEYS[2], ARGV[3])
return 1

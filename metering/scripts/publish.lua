#!lua flags=allow-oom
-- Tells gateways what PostgreSQL has, and forgets it here. Nothing where the shard has another epoch by now.
--
-- KEYS  epoch, journal, watermark
-- ARGV  1 epoch   2 watermark   3 smallest stream id to keep
-- Answers 1 or 0
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[3], ARGV[2])
redis.call('XTRIM', KEYS[2], 'MINID', ARGV[3])
return 1

#!lua flags=allow-oom
-- Closes a shard: from here on its scripts answer stale, and counters are set by whoever knows this number. Nobody has
-- handed in yet.
--
-- KEYS  opening, epoch, who has handed in
-- ARGV  1 number of the epoch that is to come
redis.call('SET', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2], KEYS[3])

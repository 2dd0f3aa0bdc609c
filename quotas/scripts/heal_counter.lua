#!lua flags=allow-oom
-- Moves a counter by a difference that was found, never to a value: calls go on meanwhile. What is no number is moved
-- from nothing.
--
-- KEYS  epoch, hash
-- ARGV  1 epoch   2 field   3 difference   4 expires, s
-- Answers 1, or 0 where the shard has another epoch by now
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local value = redis.call('HGET', KEYS[2], ARGV[2])
if value and not value:match('^-?%d+$') then redis.call('HDEL', KEYS[2], ARGV[2]) end
redis.call('HINCRBY', KEYS[2], ARGV[2], ARGV[3])
redis.call('EXPIREAT', KEYS[2], ARGV[4])
return 1

#!lua flags=allow-oom
-- Sets counters of a shard that is being opened, as the ledger has them. Whatever else they held is gone.
--
-- KEYS  opening, counters …
-- ARGV  1 number of the epoch that is to come   then of each counter: expires, s; how many names and values; name, value …
-- Answers 1, or 0 where somebody else is opening the shard by now
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local at = 2
for i = 2, #KEYS do
  local last = at + 1 + ARGV[at + 1]
  redis.call('DEL', KEYS[i])
  redis.call('HSET', KEYS[i], unpack(ARGV, at + 2, last))
  redis.call('EXPIREAT', KEYS[i], ARGV[at])
  at = last + 1
end
return 1

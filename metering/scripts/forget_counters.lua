#!lua flags=allow-oom
-- Forgets what a shard that is being opened counted, but for its buckets, which the ledger knows nothing of.
--
-- KEYS  opening, any of the shard's …
-- ARGV  1 number of the epoch that is to come   2 tag of the shard
-- Answers 1, or 0 where somebody else is opening the shard by now
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for i = 2, #KEYS do
  local kind = string.match(string.sub(KEYS[i], #ARGV[2] + 2), '^%a+')
  if kind == 'quota' or kind == 'spent' then
    redis.call('UNLINK', KEYS[i])
  elseif kind == 'now' then
    for _, field in ipairs(redis.call('HKEYS', KEYS[i])) do
      if string.sub(field, 1, 2) == 'c:' then redis.call('HDEL', KEYS[i], field) end
    end
  end
end
return 1

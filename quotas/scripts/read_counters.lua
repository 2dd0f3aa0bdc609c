#!lua flags=no-writes
-- Counters and the journal's last id at one moment.
--
-- KEYS  epoch, journal, hashes …
-- Answers {epoch or '', last id, {field, value …} …}
-- What was drained is trimmed, so an empty journal has nothing to wait for.
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
last = last[1] and last[1][1] or '0-0'
local answer = {redis.call('GET', KEYS[1]) or '', last}
for i = 3, #KEYS do
  answer[i] = redis.call('HGETALL', KEYS[i])
end
return answer

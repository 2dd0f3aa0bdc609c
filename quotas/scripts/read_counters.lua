#!lua
-- Counters and the journal's last id at one moment.
--
-- KEYS  epoch, journal, quotas …
-- Answers {epoch or '', last id, used …}
-- What was drained is trimmed, so an empty journal has nothing to wait for.
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
last = last[1] and last[1][1] or '0-0'
local answer = {redis.call('GET', KEYS[1]) or '', last}
for i = 3, #KEYS do
  answer[i] = tonumber(redis.call('HGET', KEYS[i], 'used')) or 0
end
return answer

#!lua flags=allow-oom
-- Moves the deadlines of a gateway's open leases in one shard.
--
-- KEYS  epoch, leases
-- ARGV  1 epoch   2 lease, ms   3… request ids
-- Answers {'ok', ids that are gone …} or {'stale'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end
local time = redis.call('TIME')
local deadline = struct.pack('>d', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2])
local answer = {'ok'}
for i = 3, #ARGV do
  local lease = redis.call('HGET', KEYS[2], ARGV[i])
  if lease then
    redis.call('HSET', KEYS[2], ARGV[i], deadline .. string.sub(lease, 9))
  else
    answer[#answer + 1] = ARGV[i]
  end
end
return answer

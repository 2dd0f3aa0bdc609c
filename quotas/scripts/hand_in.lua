#!lua flags=allow-oom
-- What a gateway hands in of a shard that is being opened: leases of its running calls that are not there any more. No
-- counter: the opening sets them. And, at last, that it has handed in all it had.
--
-- KEYS  opening, leases, who has handed in
-- ARGV  1 number of the epoch that is to come   2 the gateway's name, or empty where more comes   3 lease, ms
--       4… request id, lease but for its deadline (see lease.lua), …
-- Answers {'ok'} or {'stale'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'stale'} end
local time = redis.call('TIME')
local deadline = struct.pack('>d', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3])
for i = 4, #ARGV, 2 do redis.call('HSETNX', KEYS[2], ARGV[i], deadline .. ARGV[i + 1]) end
if ARGV[2] ~= '' then redis.call('SADD', KEYS[3], ARGV[2]) end
return {'ok'}

#!lua flags=allow-oom
-- A settle whose fate could not be learnt in time, or that was lost: into the journal, no counter. The drain credits the
-- counter.
--
-- KEYS  journal, epoch, opening
-- ARGV  1 entry
-- Answers {'ok', stream id, epoch or false, number of the epoch that is to come or false}
local id = redis.call('XADD', KEYS[1], '*', 'e', ARGV[1], 's', 'replay')
return {'ok', id, redis.call('GET', KEYS[2]), redis.call('GET', KEYS[3])}

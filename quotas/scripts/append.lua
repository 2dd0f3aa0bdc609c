#!lua flags=allow-oom
-- A settle whose fate could not be learnt in time: into the journal, no counter. The drain credits the counter.
--
-- KEYS  journal
-- ARGV  1 entry
-- Answers {'ok', stream id}
return {'ok', redis.call('XADD', KEYS[1], '*', 'e', ARGV[1], 's', 'replay')}

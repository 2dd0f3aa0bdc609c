-- What a lease holds of further limits, given back. hold: "now month day", then kind, field and a dash of each, as
-- quotas/limits.py writes it. need and money: what was reserved; spent: tokens that a minute's bucket keeps.
local function give_back(hold, need, money, spent)
  local now, month, day
  for kind, field, third in string.gmatch(hold, '(%S+) (%S+) (%S+)') do
    if not now then
      now, month, day = kind, field, third
    elseif kind == 'c' then
      -- A shard that was opened since may have forgotten it.
      if redis.call('HINCRBY', now, field, -1) < 0 then redis.call('HSET', now, field, 0) end
    elseif kind == 'p' then
      redis.call('HINCRBYFLOAT', now, field, need - spent)
    elseif kind == 't' then
      redis.call('HINCRBY', month, field, -need)
    elseif kind == 'm' then
      redis.call('HINCRBY', month, field, -money)
    else
      redis.call('HINCRBY', day, field, -money)
    end
  end
end

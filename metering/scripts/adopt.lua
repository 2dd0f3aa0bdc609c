-- Leases as versions before ADR 33 wrote them, a hash each and a sorted set of deadlines: those whose deadline is past
-- become leases as lease.lua reads them.
local function adopt(former, leases, past)
  local tag = string.match(former, '^{.-}')
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', former, '-inf', past)) do
    local key, deadline = tag .. ':lease:' .. id, redis.call('ZSCORE', former, id)
    local lease = redis.call('HMGET', key, 'q', 'r', 'g', 'e', 'h', 'm')
    if lease[1] then
      local counts, names = {c = 0, p = 0, t = 0, m = 0, d = 0}, {lease[3] or '', lease[1]}
      for kind, field, third in string.gmatch(lease[5] or '', '(%S+) (%S+) (%S+)') do
        if #names == 2 then
          names[3], names[4], names[5] = kind, field, third
        else
          counts[kind] = counts[kind] + 1
          names[#names + 1] = field
        end
      end
      local holds = struct.pack('BBBBB', counts.c, counts.p, counts.t, counts.m, counts.d)
      if #names == 5 then names = {names[1], names[2]} end -- they hold nothing but the quota
      redis.call('HSET', leases, id, struct.pack('>ddd', deadline, lease[2], lease[6] or 0) .. holds
        .. table.concat(names, '\0') .. '\0' .. lease[4])
      redis.call('DEL', key)
    end
    redis.call('ZREM', former, id)
  end
end

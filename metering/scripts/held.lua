-- What the open leases of a shard hold (lease.lua): amounts by key and field.
local function held(leases)
  local sums = {}
  local function hold(key, field, amount)
    sums[key] = sums[key] or {}
    sums[key][field] = (sums[key][field] or 0) + tonumber(amount)
  end
  for _, lease in ipairs(redis.call('HVALS', leases)) do
    local now, month, day = {}, {}, {}
    -- As if all were spent: buckets are kept as they are.
    local need, names = give_back(lease, (select(2, struct.unpack('>dd', lease))), now, month, day)
    names = names or names_of(lease, 0)
    hold(names[2], 'reserved', need)
    for key, changes in pairs({[3] = now, [4] = month, [5] = day}) do
      for i = 1, #changes, 2 do
        if changes[i + 1] < 0 then hold(names[key], changes[i], -changes[i + 1]) end
      end
    end
  end
  return sums
end

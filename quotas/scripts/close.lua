-- Gives back all that a lease holds, nothing of it being used; returns where in it the entry begins.
local function close(lease)
  local now, month, day = {}, {}, {}
  local need, names = give_back(lease, 0, now, month, day)
  names = names or names_of(lease, 0)
  add(names[2], {'reserved', -need})
  add(names[3], now)
  add(names[4], month)
  add(names[5], day)
  return names[#names]
end

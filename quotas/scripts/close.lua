-- Gives back all that a lease holds, nothing of it being used; returns where in it the entry begins.
local function close(lease)
  local now, month, day = {}, {}, {}
  local need, names, entry = give_back(lease, 0, now, month, day)
  add(names[2], {'reserved', -need})
  add(names[3], now)
  add(names[4], month)
  add(names[5], day)
  return entry
end

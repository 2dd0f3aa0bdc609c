-- An open lease, as admit.lua writes it: deadline, ms; tokens and nano-units reserved; what it holds, as quotas/limits.py
-- packs it; entry if nobody settles. So it says by itself how it is given back.
--
-- Its names: the gateway, the quota and, where it holds more (count), now, month, day and their fields; and, last, where in
-- it the entry begins.
local function names_of(lease, count)
  return {struct.unpack(string.rep('s', count > 0 and 5 + count or 2), lease, 30)}
end

-- Adds to changes (see add.lua) of now, month and day what gives back its further limits; spent: tokens that a minute's
-- bucket keeps. Returns tokens reserved; and, where it holds further limits, its names.
local function give_back(lease, spent, now, month, day)
  local _, need, money, calls, minutes, tokens, months, days = struct.unpack('>dddBBBBB', lease)
  local count = calls + minutes + tokens + months + days
  if count == 0 then return need end
  local names = names_of(lease, count)
  for i = 1, count do
    local of, amount = now, -1
    if i > count - days then
      of, amount = day, -money
    elseif i > count - days - months then
      of, amount = month, -money
    elseif i > calls + minutes then
      of, amount = month, -need
    elseif i > calls then
      amount = need - spent
    end
    of[#of + 1], of[#of + 2] = names[5 + i], amount
  end
  return need, names
end

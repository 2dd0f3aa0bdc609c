-- What a call used beside its quota, added to lists of changes (see add.lua): tokens of its key in the month; money of
-- consumer, key and service in month and day. Always, whether it is limited or not: a limit that is set later finds what
-- was used before.
local function spend(month, day, tokens, nano, of_key, ...)
  if tokens ~= 0 then month[#month + 1], month[#month + 2] = of_key, tokens end
  if nano ~= 0 then
    for _, of_money in ipairs({...}) do
      month[#month + 1], month[#month + 2] = of_money, nano
      day[#day + 1], day[#day + 2] = of_money, nano
    end
  end
end

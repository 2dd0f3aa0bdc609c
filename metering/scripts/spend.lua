-- What a call used beside its quota, as changes (see add.lua) of month and day: tokens of its key in the month; money of
-- consumer, key and service in both. Always, whether it is limited or not: a limit that is set later finds what was used
-- before.
local function spend(tokens, nano, of_key, of_all, of_key_money, of_service)
  if nano == 0 then return tokens == 0 and {} or {of_key, tokens}, {} end
  local day = {of_all, nano, of_key_money, nano, of_service, nano}
  if tokens == 0 then return {unpack(day)}, day end
  return {of_key, tokens, of_all, nano, of_key_money, nano, of_service, nano}, day
end

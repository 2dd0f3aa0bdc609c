-- Adds amounts to fields of a hash, in two commands however many they are. changes: field, amount, field, amount …
-- expires: s, where it may be the first that the hash is of.
local function add(key, changes, expires)
  if #changes == 0 then return end
  local fields = {}
  for i = 1, #changes, 2 do fields[#fields + 1] = changes[i] end
  local found, is_new = redis.call('HMGET', key, unpack(fields)), true
  for i, value in ipairs(found) do
    if value then
      is_new = false
      changes[2 * i] = value + changes[2 * i]
    end
    -- Calls that run: a shard that was opened since may have forgotten some.
    if changes[2 * i] < 0 and string.sub(fields[i], 1, 2) == 'c:' then changes[2 * i] = 0 end
  end
  redis.call('HSET', key, unpack(changes))
  if is_new and expires then redis.call('EXPIREAT', key, expires) end
end

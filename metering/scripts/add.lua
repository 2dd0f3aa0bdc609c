-- Adds amounts to fields of a hash, in two commands however many they are. changes: field, amount, field, amount …
-- expires: s, where it may be the first that the hash is of.
local function add(key, changes, expires)
  if #changes == 0 then return end
  local fields = {}
  for i = 1, #changes, 2 do fields[#fields + 1] = changes[i] end
  local found, is_new, set = redis.call('HMGET', key, unpack(fields)), true, {}
  for i, field in ipairs(fields) do
    local amount = changes[2 * i]
    local sum = (tonumber(found[i]) or 0) + amount
    if found[i] then is_new = false end
    -- Calls that run: a shard that was opened since may have forgotten some.
    if sum < 0 and string.sub(field, 1, 2) == 'c:' then sum = 0 end
    if math.abs(sum) < 9007199254740992 then
      set[#set + 1], set[#set + 2] = field, sum
    else -- 2^53: from here on only the server's integers are exact
      redis.call('HINCRBY', key, field, amount)
    end
  end
  if #set > 0 then redis.call('HSET', key, unpack(set)) end
  if is_new and expires then redis.call('EXPIREAT', key, expires) end
end

-- Adds amounts to fields of a hash, in two commands however many they are. changes: field, amount, field, amount …; its
-- amounts are sums afterwards. expires: s, where it may be the first that the hash is of.
local function add(key, changes, expires)
  local count = #changes / 2
  if count == 0 then return end
  -- As long as it will be: a table that grows is allocated anew each time.
  local fields, is_new = {unpack(changes, 1, count)}, true
  for i = 1, count do fields[i] = changes[2 * i - 1] end
  local found = redis.call('HMGET', key, unpack(fields))
  for i = 1, count do
    local amount = changes[2 * i]
    local sum = (tonumber(found[i]) or 0) + amount
    if found[i] then is_new = false end
    -- Calls that run: a shard that was opened since may have forgotten some.
    if sum < 0 and string.sub(fields[i], 1, 2) == 'c:' then sum = 0 end
    if math.abs(sum) >= 9007199254740992 then -- 2^53: from here on only the server's integers are exact
      redis.call('HINCRBY', key, fields[i], amount)
      sum = redis.call('HGET', key, fields[i])
    end
    changes[2 * i] = sum
  end
  redis.call('HSET', key, unpack(changes))
  if is_new and expires then redis.call('EXPIREAT', key, expires) end
end

#!lua flags=no-writes
-- Where hashes reserve something else than what the open leases of their shard hold, at one moment.
--
-- KEYS  epoch, leases, leases of former versions, hashes …
-- Answers {epoch or '', hash, field, what it says, what is held, …}; with leases of former versions there, {''}
if redis.call('EXISTS', KEYS[3]) == 1 then return {''} end
local answer, sums = {redis.call('GET', KEYS[1]) or ''}, held(KEYS[2])
local function compare(key, field, says, holds)
  local number = tonumber(says or 0)
  if number == holds then return end
  -- 2^53: from here on sums of ours are not exact.
  if math.max(math.abs(number or 0), holds) >= 9007199254740992 then return end
  for _, value in ipairs({key, field, says or '0', string.format('%.0f', holds)}) do answer[#answer + 1] = value end
end
for i = 4, #KEYS do
  local sum, found = sums[KEYS[i]] or {}, redis.call('HGETALL', KEYS[i])
  for j = 1, #found, 2 do
    local field = found[j]
    if field == 'reserved' or field:match('^r[tm]:') or field:match('^c:') then
      compare(KEYS[i], field, found[j + 1], sum[field] or 0)
      sum[field] = nil
    end
  end
end
for key, fields in pairs(sums) do
  for field, holds in pairs(fields) do compare(key, field, redis.call('HGET', key, field), holds) end
end
return answer

-- What every request begins with: the store and the rows of its locks. requests.lua goes on.
-- script.rs writes the arguments and says what the keys are. A row is the text
-- ORD|VERSION|MODE|FENCE|SLOT|LEASE|TTL|EXPIRES|SKEW|NOTE.
local STORE, INDEX = KEYS[1], KEYS[2]
local op, known, spare, adopt = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local wall, grace, ttl = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local taken = 7
local function take()
  taken = taken + 1
  return ARGV[taken]
end

local FORMAT = 1
local LIMIT = 9007199254740991 -- the largest number that a double holds exactly
local SECOND_CHANCE = 9000000000000000 -- as a skew: the row had it
local base = string.sub(STORE, 1, -6)
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function int(number) return string.format('%.0f', number) end -- tostring keeps 14 digits

local reads = op == 'look' or op == 'watch' or op == 'list' or op == 'left'
if not reads then
  -- A user without the right to publish fails before anything is written.
  redis.call('PUBLISH', base .. 'row:', '')
  -- After a first write that frees memory, Redis refuses none for want of it: what is
  -- held can always be kept.
  if op ~= 'enter' and op ~= 'make' then redis.call('DEL', base .. 'none') end
end

-- Which store this is.
local store = redis.call('HMGET', STORE, 'id', 'format', 'floor', 'ttl', 'until', 'born')
local identity, floor = store[1], tonumber(store[3] or 0) or 0
if identity and (tonumber(store[2]) or 0) ~= FORMAT then return {identity, store[2] or ''} end
if not identity then
  identity = known ~= '' and known or reads and '' or spare
  if not reads then redis.call('HSET', STORE, 'id', identity, 'format', FORMAT, 'born', int(now)) end
elseif known ~= '' and known ~= identity then
  if redis.call('HEXISTS', STORE, 'also:' .. known) == 0 then
    -- The server has run for `adopt` microseconds: a name that is older was not lost.
    local is_emptied = adopt == 'yes' or tonumber(adopt) and (tonumber(store[6]) or 0) >= now - tonumber(adopt)
    if not is_emptied then return {identity, int(FORMAT)} end
    if not reads then redis.call('HSET', STORE, 'also:' .. known, 1) end
  end
  identity = known
end

local function answer(...) return {identity, int(FORMAT), int(now), ...} end

local function decode(id, text)
  local row = {id = id, text = text, is_foreign = true}
  if #id ~= 32 or string.find(id, '[^0-9a-f]') then return row end
  local numbers = {string.match(text, '^(%d+)|(%d+)|[xsp]|(%d+)|(%d*)|%d+|(%d+)|(%d+)|(%-?%d+)|')}
  if #numbers == 0 then return row end
  for place, number in ipairs(numbers) do
    numbers[place] = tonumber(number)
    if numbers[place] and math.abs(numbers[place]) > LIMIT then return row end
  end
  row.is_foreign = false
  row.ord, row.version, row.fence, row.slot = numbers[1], numbers[2], numbers[3], numbers[4]
  row.ttl, row.expires, row.skew = numbers[5], numbers[6], numbers[7]
  row.mode, row.lease, row.note = string.match(text, '^%d+|%d+|(.)|%d+|%d*|(%d+)|%d+|%d+|%-?%d+|(.*)$')
  return row
end

-- With all its rows. `cut` is the number of the last grant or of the last removal of a
-- holder: one that was granted later than that has lost its row to nobody.
local function load(key)
  local lock = {key = key, name = string.sub(key, #base + 6), rows = {}, seq = 0, cut = 0}
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if all[i] == 'seq' or all[i] == 'cut' then
      lock[all[i]] = tonumber(all[i + 1]) or LIMIT
    else
      table.insert(lock.rows, decode(all[i], all[i + 1]))
    end
  end
  lock.is_listed = lock.seq > 0
  lock.is_damaged = lock.seq + 1 >= LIMIT or lock.cut + 1 >= LIMIT
  return lock
end

local changed = {}
local function put(lock, row)
  row.text = table.concat({int(row.ord), int(row.version), row.mode, int(row.fence), row.slot and int(row.slot) or '',
    row.lease, int(row.ttl), int(row.expires), int(row.skew), row.note}, '|')
  redis.call('HSET', lock.key, row.id, row.text)
end

local function tell(lock, id, text)
  redis.call('PUBLISH', base .. 'row:' .. id, text)
  changed[lock.name] = true
end

local function count_to(lock, number)
  lock.seq = math.max(lock.seq, number)
  redis.call('HSET', lock.key, 'seq', int(lock.seq))
  if not lock.is_listed then
    redis.call('ZADD', INDEX, 0, lock.name)
    lock.is_listed = true
  end
end

-- Order, version and fence: larger than all before, also those of a name that was removed.
local function draw(lock)
  count_to(lock, math.max(lock.seq + 1, floor + 1, now))
  return lock.seq
end

local function cut(lock, number)
  lock.cut = number
  redis.call('HSET', lock.key, 'cut', int(number))
end

local function find(lock, id)
  for place, row in ipairs(lock.rows) do
    if row.id == id then return row, place end
  end
end

local function copy(rows)
  local copied = {}
  for place, row in ipairs(rows) do copied[place] = row end
  return copied
end

local function remove(lock, row, by_force)
  local _, place = find(lock, row.id)
  table.remove(lock.rows, place)
  redis.call('HDEL', lock.key, row.id)
  local number = draw(lock)
  if by_force and row.fence > 0 then cut(lock, number) end
  tell(lock, row.id, '')
end

-- A row that was last heard of when the clocks of its host and of the server were
-- differently far apart than now has perhaps ended by a step of one of them. It gets its
-- time once more, and a living holder renews meanwhile.
local function is_odd(row)
  return row.skew ~= SECOND_CHANCE and math.abs(row.skew - (now - wall)) >= math.max(row.ttl / 2, 1000000)
end

local function is_over(row)
  return not row.is_foreign and row.expires > 0 and row.expires <= now and not is_odd(row)
end

-- What has ended is removed before anybody decides without it.
local function purge(lock)
  for _, row in ipairs(copy(lock.rows)) do
    if is_over(row) then
      remove(lock, row, false)
    elseif not row.is_foreign and row.expires > 0 then
      if row.expires <= now then
        row.expires, row.skew = now + row.ttl, SECOND_CHANCE
        put(lock, row)
      elseif row.expires > now + row.ttl + 1000000 then
        -- The server's clock was set back, and may be set right again.
        row.expires, row.skew = now + row.ttl, now - wall
        put(lock, row)
      end
    end
  end
end

-- Whether a holder excludes this.
local function is_taken(lock, me, mode, slot)
  for _, row in ipairs(lock.rows) do
    if row.is_foreign then return true end
    if row.id ~= me and row.fence > 0 then
      local shares = mode == 's' and row.mode == 's' or mode == 'p' and row.mode == 'p' and slot ~= row.slot
      if not shares then return true end
    end
  end
  return false
end

local function renew(row)
  if row.expires > 0 then row.expires = now + row.ttl end
  row.skew = now - wall
end

-- The server has lost a holder's row, or its grant: the holder knows it and puts it back,
-- unless the lock was granted or taken away meanwhile.
local function put_back(lock, id, text)
  local row = text ~= '' and decode(id, text)
  if not row or row.is_foreign or row.fence == 0 then return nil end
  redis.call('DEL', base .. 'none')
  purge(lock)
  if lock.cut > row.fence or floor > row.fence or is_taken(lock, id, row.mode, row.slot) then return nil end
  count_to(lock, math.max(row.fence, row.version))
  renew(row)
  put(lock, row)
  local _, place = find(lock, id)
  lock.rows[place or #lock.rows + 1] = row
  changed[lock.name] = true
  return row
end

-- Our own row. `held`: its text when it was granted, or ''.
local function own(lock, id, held)
  local row = find(lock, id)
  if row and not row.is_foreign and (row.fence > 0 or held == '') then return row end
  return put_back(lock, id, held)
end

local function rows_of(lock, is_living_only)
  local rows = {}
  for _, row in ipairs(lock.rows) do
    if not (is_living_only and is_over(row)) then
      table.insert(rows, row.id)
      table.insert(rows, row.is_foreign and '' or row.text)
    end
  end
  return {int(lock.seq), rows}
end

local locks = {}
if op ~= 'keep' and op ~= 'watch' then
  for i = 3, #KEYS do
    locks[i - 2] = load(KEYS[i])
    if locks[i - 2].is_damaged then return redis.error_reply('LOCKRUN the numbers in ' .. KEYS[i] .. ' are damaged') end
  end
end
local lock = locks[1]
local said = answer()

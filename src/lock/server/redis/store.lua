-- One request, carried out in one step. script.rs writes the arguments and says what the
-- keys are. A row is the text ORD|VERSION|MODE|FENCE|SLOT|LEASE|TTL|EXPIRES|SKEW|NOTE.
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

local function keeps_ttl()
  redis.call('HSET', STORE, 'ttl', int(ttl), 'until', int(now + ttl))
end

if op == 'look' then
  said = answer(rows_of(lock, true))

elseif op == 'turn' then
  local id, held = take(), take()
  purge(lock)
  own(lock, id, held)
  said = answer(rows_of(lock))

elseif op == 'enter' then
  local lease, life, condition = take(), tonumber(take()), take()
  local other, till = tonumber(store[4] or 0) or 0, tonumber(store[5] or 0) or 0
  if other ~= ttl and till > now and till <= now + other + 1000000 then
    return redis.error_reply('LOCKRUN ttl ' .. int(other))
  end
  local entries, may, is_new = {}, true, false
  for place, in_lock in ipairs(locks) do
    local entry = {lock = in_lock, id = take(), mode = take(), wish = take(), note = take(), seen = {}}
    entry.slot, entry.at = tonumber(entry.wish), tonumber(take())
    for _ = 1, tonumber(take()) do entry.seen[take()] = true end
    entries[place] = entry
    purge(in_lock)
    is_new = is_new or not find(in_lock, entry.id)
    entry.is_free = grace == 0 and entry.mode ~= 'p'
    for _, row in ipairs(in_lock.rows) do
      if row.id ~= entry.id then
        if condition == 'empty' or condition == 'unchanged'
          and not (entry.seen[row.id] and (row.is_foreign or row.version <= entry.at)) then may = false end
        if entry.mode == 'x' or row.is_foreign or row.mode ~= 's' then entry.is_free = false end
      end
    end
    if condition ~= 'always' and grace > 0 then may = false end
    if entry.wish ~= '?' then
      if is_taken(in_lock, entry.id, entry.mode, entry.slot) then may = false end
      entry.is_free = grace == 0
    end
  end
  if may and is_new then
    keeps_ttl()
    for _, entry in ipairs(entries) do
      if not find(entry.lock, entry.id) then
        local number = draw(entry.lock)
        local row = {id = entry.id, ord = number, version = number, mode = entry.mode, fence = 0, slot = entry.slot,
          lease = lease, ttl = life, expires = now + life, skew = now - wall, note = entry.note}
        if entry.is_free then
          row.fence = number
          cut(entry.lock, number)
        end
        put(entry.lock, row)
        tell(entry.lock, row.id, row.text)
        table.insert(entry.lock.rows, row)
      end
    end
  end
  local looks = {}
  for place, entry in ipairs(entries) do looks[place] = rows_of(entry.lock) end
  said = answer(looks)

elseif op == 'grant' then
  local id, slot = take(), tonumber(take())
  local row = find(lock, id)
  if not row or row.is_foreign then
    said = answer('gone')
  elseif row.fence > 0 then
    said = answer(row.text)
  elseif grace > 0 or is_taken(lock, id, row.mode, slot) then
    said = answer('stale')
  else
    row.fence, row.slot = draw(lock), slot
    row.version = row.fence
    cut(lock, row.fence)
    put(lock, row)
    tell(lock, id, row.text)
    said = answer(row.text)
  end

elseif op == 'keep' then
  keeps_ttl()
  -- Without reading whole queues, unless something is missing.
  local rows, waits = {}, {}
  for i = 1, tonumber(take()) do
    local key, id, held = take(), take(), take()
    local text = redis.call('HGET', key, id)
    local row = text and decode(id, text)
    if row and not row.is_foreign and (row.fence > 0 or held == '') then
      renew(row)
      put({key = key}, row)
    elseif held ~= '' then
      row = put_back(load(key), id, held)
    end
    rows[i] = row and row.text or ''
  end
  for i = 1, tonumber(take()) do
    local key, id = take(), take()
    local text = redis.call('HGET', key, id) or ''
    if text ~= '' and is_over(decode(id, text)) then
      purge(load(key))
      text = ''
    end
    waits[i] = text
  end
  said = answer(rows, waits)

elseif op == 'move' then
  local lease, life = take(), tonumber(take())
  local rows, moved = {}, {}
  for i, in_lock in ipairs(locks) do
    local id, held = take(), take()
    rows[i] = own(in_lock, id, held)
    if not rows[i] then return answer({}) end
  end
  for i, row in ipairs(rows) do
    row.lease, row.ttl, row.expires = lease, life, life > 0 and now + life or 0
    row.skew, row.version = now - wall, draw(locks[i])
    put(locks[i], row)
    moved[i] = row.text
  end
  said = answer(moved)

elseif op == 'rewrite' then
  local id, ord, version, note = take(), tonumber(take()), tonumber(take()), take()
  local row = find(lock, id)
  local is_there = row and not row.is_foreign and row.ord == ord
  if is_there and row.version == version and row.note ~= note then
    row.note, row.version = note, draw(lock)
    put(lock, row)
    tell(lock, id, row.text)
  end
  said = answer(is_there and row.note == note and row.text or '')

elseif op == 'left' then
  local lease, left = take(), ''
  for _, row in ipairs(lock.rows) do
    if not row.is_foreign and row.lease == lease and not is_over(row) then left = int(math.max(row.expires - now, 0)) end
  end
  said = answer(left)

elseif op == 'leave' then
  local lease, left = take(), 0
  for _, in_lock in ipairs(locks) do
    for _, row in ipairs(copy(in_lock.rows)) do
      if not row.is_foreign and row.lease == lease then
        -- Other holders may still have to put their rows back.
        remove(in_lock, row, grace == 0)
        left = left + 1
      end
    end
  end
  said = answer(left)

elseif op == 'remove' then
  local id, ord = take(), tonumber(take())
  local row = find(lock, id)
  local is_there = row and not row.is_foreign and row.ord == ord
  if is_there then remove(lock, row, true) end
  said = answer(is_there and 1 or 0)

elseif op == 'watch' then
  local subjects = {}
  for i = 1, tonumber(take()) do
    local key, id, held = take(), take(), take()
    if id == '' then
      local in_lock, soonest = load(key), 0
      for _, row in ipairs(in_lock.rows) do
        if not row.is_foreign and row.expires > 0 and (soonest == 0 or row.expires < soonest) then soonest = row.expires end
      end
      subjects[i] = {int(in_lock.seq), int(soonest)}
    else
      local text = redis.call('HGET', key, id)
      if held ~= '' and not (text and (decode(id, text).fence or 0) > 0) then
        local row = put_back(load(key), id, held)
        text = row and row.text
      end
      subjects[i] = text or ''
    end
  end
  said = answer(subjects)

elseif op == 'list' then
  local from, most = take(), take()
  local page = {}
  for i, name in ipairs(redis.call('ZRANGEBYLEX', INDEX, '[' .. from, '+', 'LIMIT', 0, most)) do
    page[i] = {name, unpack(rows_of(load(base .. 'lock:' .. name), true))}
  end
  said = answer(page)

elseif op == 'prune' then
  local unused = tonumber(take())
  purge(lock)
  local is_unused = #lock.rows == 0 and lock.seq < now - unused
  if is_unused then
    redis.call('HSET', STORE, 'floor', int(math.max(floor, lock.seq)))
    redis.call('DEL', lock.key)
    redis.call('ZREM', INDEX, lock.name)
  end
  said = answer(is_unused and 1 or 0)
end

for name in pairs(changed) do redis.call('PUBLISH', base .. 'any:' .. name, '') end
return said

-- The requests, each carried out in one step; the second half of store.lua.
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

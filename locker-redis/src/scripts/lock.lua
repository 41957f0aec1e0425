-- The operations on locks: a batch of members, each about one key, each with an answer of its own.
--
-- KEYS[i]  the hash of the i-th member's lock. A lock is one hash, so nothing here names a second
--          key of another slot but the processes, and those only where there are no slots.
-- ARGV[1]  what the names of process keys begin with; empty on a cluster, where a process lies on
--          another node and is judged by the caller.
-- ARGV[2]  what the names of mailboxes begin with; empty on a cluster, where a mailbox is a sharded
--          channel beside its lock.
-- ARGV[3…] for each member: the name of its operation, and the operation's own arguments.
--
-- The answer: seconds and microseconds of the server's clock, then for each member a word, or an
-- array that begins with one. `granted` alone is the grant of a token that is this very time.
--
-- Fields of a lock: `format`, `owner`, `acquired`, `extended`, `expires` and `marked` are the record
-- and go at the release; `token` is the last fencing token and stays. `waiters` counts the fields
-- `w:N`, the enrolments, and `enrolled` is the N of the youngest. Times are microseconds. `acquired`
-- and `extended` are not written where they are what `token` says.
--
-- Whether a record has expired is decided by its field `expires`, never by the key's own TTL: that
-- one only collects what nobody has used for as long as a token must be remembered.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local processes, mailboxes = ARGV[1], ARGV[2]

-- The newest format of a record that is read here.
local FORMAT = 1
-- 30 days, in microseconds.
local RETENTION = 2592000000000
-- The largest number that is exact here: in microseconds, the year 2255.
local GREATEST = 9007199254740991
-- How many waiters a release tells. The next one's turn would come so late that it polls before.
local PLACES = 64

-- Lua prints large numbers with an exponent unless it is told not to.
local function text(number)
  return string.format('%.0f', number)
end

-- A moment of the future, never so far that it would not be exact.
local function after(ttl)
  return math.min(now + tonumber(ttl), GREATEST)
end

local now_text = time[1] .. string.format('%06d', time[2])

local function corrupt(what)
  error({ err = 'CORRUPT ' .. what })
end

-- What the process of this name has written, if it lives.
local function living(name)
  local value = redis.call('GET', processes .. name)
  if not value then
    return false
  end
  local expires = string.match(value, '^(%d+) %d+$')
  if not expires then
    corrupt('the record of the process is malformed')
  end
  return tonumber(expires) > now and value
end

-- Almost all of the work is a free lock that is acquired, and an own one that is released. Both are
-- done here, with as few commands as they take. Whatever is not as plain as that, errors included, is
-- answered with nothing: the operations below see all cases.

local process_seen, process_lives
local ttl_seen, expires_text, until_text
-- Whether this server has taken a write of this batch.
local wrote = false

local function acquire_plainly(key, at)
  local owner, process, ttl, not_after = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  if now > tonumber(not_after) then
    return
  end
  -- The members of a batch are of one process, and ask for one TTL.
  if process ~= process_seen then
    process_lives = processes == '' or living(process)
    process_seen = process
  end
  if not process_lives then
    return
  end
  local found = redis.call('HMGET', key, 'token', 'owner', 'expires', 'format', 'marked')
  local last = found[1]
  if found[2] or found[3] or found[4] or found[5] then
    return
  end
  if last then
    -- A clock that was stepped back is not plain.
    if #last > 16 or not string.find(last, '^[1-9]%d*$') or tonumber(last) >= now then
      return
    end
  elseif redis.call('HLEN', key) > 0 then
    return
  end
  if ttl ~= ttl_seen then
    local expires = after(ttl)
    ttl_seen, expires_text = ttl, text(expires)
    until_text = text(math.ceil(math.max(now + RETENTION, expires) / 1000))
  end
  redis.call('HSET', key, 'format', FORMAT, 'owner', owner, 'token', now_text,
    'expires', expires_text)
  redis.call('PEXPIREAT', key, until_text)
  wrote = true
  return 'granted'
end

-- Hints to those who are enrolled: a waiter is told its place, by the order in which they came, and an
-- observer that it may look. A waiter whose process is dead is told so and forgotten; a mailbox that
-- nobody reads is forgotten, and takes no place.
--
-- What a script has said last the server sends first. So the line is told from its end: its head, who
-- goes at once, has the message before all others. A mailbox that nobody reads has taken a place by
-- then; those behind it are told once more.
local function wake(key)
  local order, values, gone = {}, {}, {}
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local n = tonumber(string.match(all[i], '^w:(%d+)$'))
    if n and all[i] == 'w:' .. n then
      order[#order + 1], values[n] = n, all[i + 1]
    elseif n then
      -- No release of the locker spells a number like that.
      gone[#gone + 1] = all[i]
    end
  end
  local count = #order + #gone
  table.sort(order)

  local publish = mailboxes == '' and 'SPUBLISH' or 'PUBLISH'
  local function tell(one, word)
    return redis.call(publish, one.mail, one.name .. ' ' .. word .. ' ' .. key) > 0
  end
  local function forget(n)
    gone[#gone + 1] = 'w:' .. n
  end
  -- The enrolment of this number, unless it is forgotten.
  local function look(n)
    local mailbox, id, process = string.match(values[n], '^(%w+) (%d+) ?(.*)$')
    if not mailbox then
      return forget(n)
    end
    local mail = mailboxes == '' and key .. ':mail:' .. mailbox or mailboxes .. mailbox
    local one = { n = n, mail = mail, name = id .. ' ' .. n, waits = process ~= '' }
    if one.waits and processes ~= '' then
      local sound, lives = pcall(living, process)
      if not (sound and lives) then
        tell(one, 'gone')
        return forget(n)
      end
    end
    return one
  end

  local line, others, place = {}, {}, 0
  for _, n in ipairs(order) do
    if place < PLACES or string.find(values[n], '^%w+ %d+$') then
      local one = look(n)
      if one then
        one.place = one.waits and place or 0
        place = place + (one.waits and 1 or 0)
        line[#line + 1] = one
      end
    else
      others[#others + 1] = n
    end
  end
  local empty
  for i = #line, 1, -1 do
    local one = line[i]
    if not tell(one, one.place) then
      forget(one.n)
      empty = one.waits and i or empty
      one.waits = false
    end
  end
  if empty then
    place = line[empty].place
    for i = empty + 1, #line do
      local one = line[i]
      if one.waits then
        tell(one, place)
        place = place + 1
      end
    end
    for _, n in ipairs(others) do
      local one = place < PLACES and look(n)
      if one and tell(one, place) then
        place = place + 1
      elseif one then
        forget(n)
      end
    end
  end

  if #gone == 0 and count > 0 then
    return
  end
  for _, field in ipairs(gone) do
    redis.call('HDEL', key, field)
  end
  if #gone == count then
    redis.call('HDEL', key, 'waiters', 'enrolled')
  else
    redis.call('HSET', key, 'waiters', count - #gone)
  end
end

local function release_plainly(key, at)
  local found = redis.call('HMGET', key, 'owner', 'expires', 'waiters', 'format', 'token')
  local expires, token = found[2] or '', found[5] or ''
  -- What is no record of this release is not released by it.
  if found[1] ~= ARGV[at + 1] or found[4] ~= '1' or #expires > 16 or #token > 16
    or not string.find(expires, '^%d+$') or not string.find(token, '^[1-9]%d*$') then
    return
  end
  if tonumber(expires) <= now then
    return
  end
  redis.call('HDEL', key, 'format', 'owner', 'acquired', 'extended', 'expires', 'marked')
  wrote = true
  if found[3] then
    pcall(wake, key)
  end
  return 'mine'
end

-- The operations in all cases. They are made when one is needed: a script is run anew for every
-- batch, and would make them all each time.
local function all_operations()
  local function number(field, value)
    if not value or #value > 16 or not string.find(value, '^%d+$') then
      corrupt('the field ' .. field .. ' is not a number')
    end
    return tonumber(value)
  end

  -- The name of the process key of the process that an owner hash mentions.
  local ESCAPES = { ['%'] = '%25', [':'] = '%3A', ['{'] = '%7B', ['}'] = '%7D' }
  local function process_of(owner)
    local head = string.match(owner, '^[^#]*')
    local process = string.match(head, '^[^@]+@([^@]+/%d+%.%d+)%.%d+$')
    if not process then
      corrupt('the owner is malformed')
    end
    return (string.gsub(process, '[%%:{}]', ESCAPES))
  end

  -- Reads a lock. `record` is its record as it was found, if it is unexpired; `mine` says whether it
  -- is the asker's.
  local function find(key, asker)
    local found = redis.call('HMGET', key, 'format', 'owner', 'token', 'acquired', 'extended',
      'expires', 'marked', 'waiters')
    local lock = { last = 0, waiters = found[8] }
    local owner, token, expires = found[2], found[3], found[6]
    if not (owner or token or expires or found[1]) then
      if not found[8] and redis.call('HLEN', key) > 0 then
        corrupt('the hash is no lock')
      end
      return lock
    end
    lock.last = number('token', token)
    if lock.last == 0 then
      corrupt('the token is zero')
    end
    if not (owner or expires or found[1]) then
      return lock
    end
    local format = number('format', found[1])
    if format == 0 or format > FORMAT then
      corrupt('the format of the record is not one that is read here')
    end
    lock.expires = number('expires', expires)
    if not owner then
      corrupt('the record has no owner')
    end
    if owner ~= asker then
      -- Keys are escaped in owner hashes, so the first `@` ends the key.
      lock.process = process_of(owner)
      if asker and string.match(owner, '^[^@]*') ~= string.match(asker, '^[^@]*') then
        corrupt('the record names an owner of another key')
      end
    end
    if lock.expires > now then
      lock.record = found
      lock.mine = owner == asker
    end
    return lock
  end

  -- How a lock is shown that somebody else holds. Where processes can be seen, with what the holder's
  -- has written, or nothing if it is dead.
  local function held(lock)
    local found = lock.record
    local process = false
    if processes ~= '' then
      process = living(lock.process or process_of(found[2])) or ''
    end
    local acquired = found[4] or found[3]
    local extended = found[5] or acquired
    return { 'held', found[1], found[2], found[3], acquired, extended, found[6], found[7], process }
  end

  -- The hash is collected when the clock has passed its token by the retention, so that the next token
  -- grows without it; and not before the record expires.
  local function keep(key, token, expires)
    local until_us = math.max(token + RETENTION, expires)
    redis.call('PEXPIREAT', key, text(math.ceil(until_us / 1000)))
  end

  -- The full TTL again, never less than there is left. The key's own TTL comes first: it may be set
  -- when memory is full, and after a first write the others may be written as well.
  local function renew(key, lock, ttl)
    local expires = math.max(lock.expires, after(ttl))
    keep(key, lock.last, expires)
    redis.call('HSET', key, 'expires', text(expires), 'extended', text(now))
  end

  local function grant(key, lock, owner, ttl)
    local token = math.max(lock.last + 1, now)
    if token > GREATEST then
      corrupt('the tokens are used up')
    end
    local expires = after(ttl)
    redis.call('HSET', key, 'format', FORMAT, 'owner', owner, 'token', text(token),
      'acquired', text(now), 'extended', text(now), 'expires', text(expires))
    redis.call('HDEL', key, 'marked')
    keep(key, token, expires)
    return { 'granted', text(token) }
  end

  -- Both claims. They differ in what they do with a free lock and with a dead holder.
  local function claim(key, owner, process, ttl, not_after, observed)
    -- Nothing lands late. The largest number there is means "without limit", and is one here.
    if now > tonumber(not_after) then
      return { 'late' }
    end
    if processes ~= '' and not living(process) then
      return { 'dead' }
    end
    local lock = find(key, owner)
    if not lock.record then
      if observed then
        return { 'absent' }
      end
      return grant(key, lock, owner, ttl)
    end
    if lock.mine then
      renew(key, lock, ttl)
      return { 'granted', lock.record[3] }
    end
    local answer = held(lock)
    -- On a cluster the caller has read the holder's process, and death is one-way: it is enough that
    -- the record is still the one whose process was found dead.
    if observed == lock.record[3] .. ' ' .. lock.record[2] and (processes == '' or answer[9] == '') then
      return grant(key, lock, owner, ttl)
    end
    return answer
  end

  local function standing(lock)
    if not lock.record then
      return { 'absent' }
    elseif not lock.mine then
      return { 'other', lock.record[2] }
    elseif lock.record[7] then
      return { 'marked' }
    end
    return { 'mine' }
  end

  -- Every operation with the number of its arguments.
  return {
    -- owner, process, TTL, not after
    create = { 4, claim },
    -- the same, and the observed version
    take_over = { 5, claim },
    -- owner, TTL
    extend = { 2, function(key, owner, ttl)
      local lock = find(key, owner)
      local answer = standing(lock)
      if answer[1] == 'mine' then
        renew(key, lock, ttl)
      end
      return answer
    end },
    -- owner
    check = { 1, function(key, owner)
      return standing(find(key, owner))
    end },
    -- owner. It deletes first, which is allowed when memory is full.
    release = { 1, function(key, owner)
      local lock = find(key, owner)
      local answer = standing(lock)
      if lock.mine then
        redis.call('HDEL', key, 'format', 'owner', 'acquired', 'extended', 'expires', 'marked')
        -- The lock is free, whoever may not be told so: a user without the right to publish.
        if lock.waiters then
          pcall(wake, key)
        end
      end
      return answer
    end },
    -- owner
    mark = { 1, function(key, owner)
      local lock = find(key, owner)
      local answer = standing(lock)
      if lock.mine then
        redis.call('HSET', key, 'marked', 1)
      end
      return answer
    end },
    read = { 0, function(key)
      local lock = find(key)
      if not lock.record then
        return { 'absent' }
      end
      return held(lock)
    end },
    -- process. Its retirement has freed the lock, if the lock is still its.
    wake = { 1, function(key, process)
      local lock = find(key)
      if lock.record and lock.process == process and lock.waiters then
        wake(key)
      end
      return { 'done' }
    end },
    -- number of a former enrolment, and the enrolment: mailbox, id, and the process that waits
    enrol = { 2, function(key, former, enrolment)
      local lock = find(key)
      if former ~= '' and redis.call('HGET', key, 'w:' .. former) == enrolment then
        return { 'enrolled', former }
      end
      local n = redis.call('HINCRBY', key, 'enrolled', 1)
      redis.call('HSET', key, 'w:' .. n, enrolment)
      redis.call('HINCRBY', key, 'waiters', 1)
      if redis.call('PTTL', key) * 1000 < RETENTION then
        redis.call('PEXPIRE', key, text(RETENTION / 1000))
      end
      return { 'enrolled', text(n) }
    end },
    -- number of the enrolment, its mailbox and id
    withdraw = { 2, function(key, n, enrolment)
      local found = redis.call('HGET', key, 'w:' .. n)
      if found and string.match(found, '^%w+ %d+') == enrolment then
        redis.call('HDEL', key, 'w:' .. n)
        if redis.call('HINCRBY', key, 'waiters', -1) <= 0 then
          redis.call('HDEL', key, 'waiters', 'enrolled')
        end
      end
      return { 'done' }
    end },
  }
end

local plain = { create = acquire_plainly, release = release_plainly }
local arities = { create = 4, release = 1 }
local operations

local answers = { time[1], time[2] }
local at = 3
for _, key in ipairs(KEYS) do
  local name = ARGV[at]
  local arity = arities[name]
  local ok, answer
  if arity then
    ok, answer = pcall(plain[name], key, at)
  end
  if not (ok and answer) then
    operations = operations or all_operations()
    local run
    arity, run = unpack(operations[name])
    ok, answer = pcall(run, key, unpack(ARGV, at + 1, at + arity))
    if not ok then
      -- An error is a table from Redis 7 on, and a text before.
      answer = { 'error', type(answer) == 'table' and answer.err or tostring(answer) }
    end
  end
  answers[#answers + 1] = answer
  at = at + 1 + arity
end
-- A former master, which has become a replica, takes reads as before, and what it holds may be old:
-- its word that a lock is gone would be final. It refuses every write, this one too, which changes
-- nothing. It comes last, because after a first write memory may be full for those that follow; and
-- where a write was taken, it is not needed.
local probe = not wrote and redis.pcall('HDEL', KEYS[1], 'w:')
if type(probe) == 'table' and string.find(probe.err, 'READONLY', 1, true) then
  return redis.error_reply('READONLY the server has become a replica')
end
return answers

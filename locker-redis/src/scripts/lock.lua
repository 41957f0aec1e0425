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
-- array that begins with one. `granted` alone is the grant of a token that is this very time. Where
-- there are words only, they may be one text, with a space between each two.
-- Claims and releases of one batch have distinct keys, so it does not matter which is done first; all
-- other members are done in their order.
--
-- Fields of a lock: `format`, `owner`, `acquired`, `extended`, `expires` and `marked` are the record
-- and go at the release; `token` is the last fencing token and stays. `waiters` counts the fields
-- `w:N`, the enrolments, and `enrolled` is the N of the youngest. Times are microseconds. `acquired`
-- and `extended` are not written where they are what `token` says.
--
-- Whether a record has expired is decided by its field `expires`, never by the key's own TTL: that
-- one only collects what nobody has used for as long as a token must be remembered.

-- FIRST, what is plain: a free lock that is acquired, and an own one that is released. That is almost
-- all of the work, so it is done with as few commands as it takes, and without a function or a table of
-- its own: a script is run anew for every batch, and would make them all each time. Whatever is not as
-- plain as that, errors included, changes nothing here: the operations further down see all cases.
--
-- Times are compared as texts of sixteen digits, which the time has from 2001 to 2286; nothing is plain
-- where one of them has less.

local try = redis.pcall
local time = redis.call('TIME')
local micros = time[2]
while #micros < 6 do
  micros = '0' .. micros
end
local now_text = time[1] .. micros
local now = tonumber(now_text)
local processes, mailboxes = ARGV[1], ARGV[2]

-- The newest format of a record that is read here.
local FORMAT = '1'
-- The largest number that is exact here: in microseconds, the year 2255.
local GREATEST = 9007199254740991
-- Tokens that begin with the same five digits are of one span: 100,000 seconds, in microseconds.
local SPAN = 100000000000
-- A token is remembered for 30 days. Only the first grant of a span sets the time until which a key
-- stays, so that is a span more. Where it cannot be set nothing is granted, and the token is the former
-- one again: a later grant of the span would rely on it.
local RETENTION = 2592000000000 + SPAN

local answers = { time[1], time[2] }
-- Of what is not plain: a member, and where its arguments begin, one after the other.
local left
-- From which member on nothing was looked at, and where its arguments begin.
local unseen, at = nil, 3
-- The keys that were freed and that somebody waits for.
local wanted
-- Whether this server has taken a write of this batch.
local wrote = false

local clock_is_plain = #now_text == 16
local process_seen, process_lives
local ttl_seen, expires_text, span

for i = 1, #KEYS do
  local key, name, place = KEYS[i], ARGV[at], at
  local answer
  if name == 'create' then
    local process, ttl, not_after = ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
    -- The members of a batch are of one process, and ask for one TTL.
    if process ~= process_seen then
      process_seen, process_lives = process, processes == ''
      if not process_lives then
        local value = try('GET', processes .. process)
        local expires = type(value) == 'string' and string.match(value, '^(%d+) %d+$')
        process_lives = expires and #expires == 16 and expires > now_text
      end
    end
    if ttl ~= ttl_seen then
      ttl_seen, expires_text = ttl, string.format('%.0f', math.min(now + ttl, GREATEST))
      -- A lock of a span or longer might outlast what the first grant has set.
      span = tonumber(ttl) < SPAN and string.sub(now_text, 1, 5)
    end
    if process_lives and clock_is_plain
      and (#not_after > 16 or #not_after == 16 and not_after >= now_text) then
      -- A mark without an owner is left by none of the operations. One that somebody else has put there
      -- asks the next owner to give the lock back, and goes with its release.
      local found = try('HMGET', key, 'token', 'owner', 'expires', 'format')
      local last = found[1]
      local free = found[2] == false and not found[3] and not found[4]
      if last then
        -- Neither a clock that was stepped back is plain, nor the first grant of a span.
        free = free and #last == 16 and last < now_text and string.sub(last, 1, 5) == span
          and string.find(last, '^[1-9]%d*$')
      else
        free = free and span and try('HLEN', key) == 0
      end
      if free and type(try('HSET', key, 'format', FORMAT, 'owner', ARGV[at + 1], 'token', now_text,
        'expires', expires_text)) == 'number' then
        wrote, answer = true, 'granted'
        if not last and try('PEXPIREAT', key,
          string.format('%.0f', math.ceil((now + RETENTION) / 1000))) ~= 1 then
          try('HDEL', key, 'format', 'owner', 'token', 'expires')
          answer = nil
        end
      end
    end
    at = at + 5
  elseif name == 'release' then
    local found = try('HMGET', key, 'owner', 'expires', 'format', 'token', 'waiters')
    local expires, token = found[2], found[4]
    -- What is no record of this release is not released by it.
    if clock_is_plain and found[1] == ARGV[at + 1] and found[3] == FORMAT
      and expires and #expires == 16 and expires > now_text and string.find(expires, '^%d+$')
      and token and #token <= 16 and string.find(token, '^[1-9]%d*$')
      and type(try('HDEL', key, 'format', 'owner', 'acquired', 'extended', 'expires',
        'marked')) == 'number' then
      wrote, answer = true, 'mine'
      if found[5] then
        wanted = wanted or {}
        wanted[#wanted + 1] = key
      end
    end
    at = at + 2
  else
    unseen = i
    break
  end
  if answer then
    answers[i + 2] = answer
  else
    left = left or {}
    left[#left + 1] = i
    left[#left + 1] = place
  end
end

if wrote and not (left or unseen or wanted) then
  return table.concat(answers, ' ')
end

-- SECOND, everything.

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

-- The operations in all cases.
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
    if format == 0 or format > tonumber(FORMAT) then
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
    local kept, why = pcall(keep, key, token, expires)
    if not kept then
      redis.call('HDEL', key, 'format', 'owner', 'token', 'acquired', 'extended', 'expires')
      if lock.last > 0 then
        redis.call('HSET', key, 'token', text(lock.last))
      end
      error(why)
    end
    redis.call('HDEL', key, 'marked')
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

local operations = (left or unseen) and all_operations()

-- Does one member, whose arguments begin here, and tells where the next one's do.
local function run(member, place)
  local arity, operation = unpack(operations[ARGV[place]])
  local ok, answer = pcall(operation, KEYS[member], unpack(ARGV, place + 1, place + arity))
  if not ok then
    -- An error is a table from Redis 7 on, and a text before.
    answer = { 'error', type(answer) == 'table' and answer.err or tostring(answer) }
  end
  answers[member + 2] = answer
  return place + 1 + arity
end

for i = 1, left and #left or 0, 2 do
  run(left[i], left[i + 1])
end
for member = unseen or #KEYS + 1, #KEYS do
  at = run(member, at)
end
for _, key in ipairs(wanted or {}) do
  pcall(wake, key)
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

-- The operations on process records. A record is one string, "EXPIRES ALIVE_AT", in microseconds of
-- the server's clock.
--
-- KEYS[1]  the key of the process.
-- ARGV[1]  the name of the operation.
-- ARGV[2]  the TTL, in microseconds, of a birth and of a renewal.
--
-- The answer: seconds and microseconds of the server's clock, what was found, and for a record that
-- lives its two times. One that is gone has its end, as long as its tombstone is there: of who has
-- none it is not known whether it was ever born.
--
-- Death is one-way. Whether a process lives is decided by EXPIRES; the key itself stays for another
-- hour, as a tombstone, so that a late birth of a name that has ended finds it.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local key, operation, ttl = KEYS[1], ARGV[1], ARGV[2]

-- One hour, in microseconds.
local TOMBSTONE = 3600000000
-- The largest number that is exact here.
local GREATEST = 9007199254740991

local function text(number)
  return string.format('%.0f', number)
end

local function answer(...)
  return { time[1], time[2], ... }
end

-- The moment, in milliseconds, at which the key goes.
local function stays(expires)
  return text(math.ceil((expires + TOMBSTONE) / 1000))
end

-- That a process is dead is final, and a former master, which has become a replica and takes reads as
-- before, may never have heard of it: so this is said by none that refuses a write. The write changes
-- nothing: there is no key, or it has this TTL.
local function gone(expired, ...)
  redis.call('PEXPIREAT', key, stays(expired))
  return answer('gone', ...)
end

local function run()
  local value = redis.call('GET', key)

  if operation == 'birth' then
    if value then
      return answer('exists')
    end
    local expires = math.min(now + tonumber(ttl), GREATEST)
    redis.call('SET', key, text(expires) .. ' ' .. text(now), 'PXAT', stays(expires))
    return answer('created')
  end

  if not value then
    return gone(now)
  end
  local expires, alive_at = string.match(value, '^(%d+) (%d+)$')
  if not expires or #expires > 16 then
    return answer('corrupt')
  end
  expires = tonumber(expires)
  if expires <= now then
    return gone(expires, text(expires))
  end

  if operation == 'renew' then
    expires = math.max(expires, math.min(now + tonumber(ttl), GREATEST))
    -- The TTL first: it may be set when memory is full, and after a first write so may the value.
    redis.call('PEXPIREAT', key, stays(expires))
    redis.call('SET', key, text(expires) .. ' ' .. text(now), 'KEEPTTL')
    return answer('renewed')
  elseif operation == 'retire' then
    redis.call('PEXPIREAT', key, stays(now))
    redis.call('SET', key, text(now) .. ' ' .. alive_at, 'KEEPTTL')
    return answer('gone')
  end
  return answer('alive', text(expires), alive_at)
end

local ok, answered = pcall(run)
if ok then
  return answered
end
-- An error is a table from Redis 7 on, and before a text that begins with where it was raised.
local why = type(answered) == 'table' and answered.err or tostring(answered)
return redis.error_reply((string.gsub(why, '^@?user_script:%s*%d+:%s*%-?', '')))

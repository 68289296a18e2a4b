"""The Lua scripts of the Redis store. Redis runs each script as one atomic step.

A record is a string: version (20 digits), expiry (16 digits), identity (16 bytes), value. Digits of
equal length compare as text; as Lua's numbers, versions beyond 2^53 would lose their last digits.
An expiry of sixteen nines is permanent, and an absent record compares as expired.

An index is a sorted set of members, scored by their expiries. Each context has two lists, also
sorted sets: its records, scored by their expiries, and its indexes, scored by the expiry of the
member that expires first.

A context that processes follow also has a hash, its feed, with the number of the last write and the
incarnation, which is random, and a sorted set of its records, its changes, scored by the number of
their last write. The scripts that write records of such a context get these two keys, too.

Every script receives an echo, with which its answer begins (so that an answer is known to belong to
this call), and the current time. A script accesses no keys but those it receives. It writes nothing
before it has checked everything, and Redis refuses the first write or none, so an error from the
server means that nothing was written.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

VERSION_CHARS, EXPIRY_CHARS, IDENTITY_BYTES = 20, 16, 16
HEADER_BYTES = VERSION_CHARS + EXPIRY_CHARS + IDENTITY_BYTES

# How many expired entries a write removes from a list: more than it adds, so that a list can't grow
# without limit, and few, so that a write has a bounded price.
REMOVED_PER_WRITE = 4
# A list outlives its last entry by up to this many milliseconds, so that a sliding expiry does not
# change the list's expiry with every write.
SLACK = 3_600_000

_COMMON = f"""
local echo, now = ARGV[1], ARGV[2]

local function head(key)
  local text = redis.call('GETRANGE', key, 0, {VERSION_CHARS + EXPIRY_CHARS - 1})
  return string.sub(text, 1, {VERSION_CHARS}), string.sub(text, {VERSION_CHARS + 1})
end

local function put(key, blob, ttl)
  if ttl == '' then redis.call('SET', key, blob) else redis.call('SET', key, blob, 'PX', ttl) end
end

local function move(key, expiry, ttl)
  redis.call('SETRANGE', key, {VERSION_CHARS}, expiry)
  if ttl == '' then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, ttl) end
end

local function enlist(list, expiry, entry, ttl)
  local left = redis.call('PTTL', list)
  redis.call('ZADD', list, expiry, entry)
  if ttl == '' then
    if left >= 0 then redis.call('PERSIST', list) end
  elseif left ~= -1 and left < tonumber(ttl) then
    redis.call('PEXPIRE', list, ttl + {SLACK})
  end
end

local function clear(list, before, changes)
  local old = redis.call('ZRANGEBYSCORE', list, '-inf', before, 'LIMIT', 0, {REMOVED_PER_WRITE})
  if #old > 0 then
    redis.call('ZREM', list, unpack(old))
    if changes then redis.call('ZREM', changes, unpack(old)) end
  end
end

local function number(feed, changes, list, entry)
  if not feed then return end
  redis.call('HSETNX', feed, 'incarnation', echo)
  redis.call('ZADD', changes, redis.call('HINCRBY', feed, 'number', 1), entry)
  local left = redis.call('PTTL', list)
  if left >= 0 then redis.call('PEXPIRE', changes, left) else redis.call('PERSIST', changes) end
end
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and the digest by which Redis finds it."""

    text: bytes
    sha: bytes


def _script(text: str) -> Script:
    whole = (_COMMON + text).encode()
    sha = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
    return Script(whole, sha.encode())


# Keys: record, list. Arguments: record's string, ttl, entry, expiry up to which entries are
# removed. Answers 1, or 0 if a record is live.
CREATE = _script(f"""
local _, expiry = head(KEYS[1])
if expiry > now then return echo .. '0' end
put(KEYS[1], ARGV[3], ARGV[4])
enlist(KEYS[2], string.sub(ARGV[3], {VERSION_CHARS + 1}, {VERSION_CHARS + EXPIRY_CHARS}),
  ARGV[5], ARGV[4])
number(KEYS[3], KEYS[4], KEYS[2], ARGV[5])
clear(KEYS[2], ARGV[6], KEYS[4])
return echo .. '1'
""")

# Keys: record, list. Arguments: record's string, ttl, entry, expected version or ''. Answers 1, 0
# if no record is live, or the conflicting version.
UPDATE = _script(f"""
local version, expiry = head(KEYS[1])
if expiry <= now then return echo .. '0' end
if ARGV[6] ~= '' and version ~= ARGV[6] or string.sub(ARGV[3], 1, {VERSION_CHARS}) <= version then
  return echo .. version
end
put(KEYS[1], ARGV[3], ARGV[4])
local later = string.sub(ARGV[3], {VERSION_CHARS + 1}, {VERSION_CHARS + EXPIRY_CHARS})
if later ~= expiry then enlist(KEYS[2], later, ARGV[5], ARGV[4]) end
number(KEYS[3], KEYS[4], KEYS[2], ARGV[5])
return echo .. '1'
""")

# Keys: record, list. Arguments: expiry, ttl, entry. Answers 1, or 0 if no record is live.
UPDATE_EXPIRATION = _script("""
local _, expiry = head(KEYS[1])
if expiry <= now then return echo .. '0' end
move(KEYS[1], ARGV[3], ARGV[4])
enlist(KEYS[2], ARGV[3], ARGV[5], ARGV[4])
number(KEYS[3], KEYS[4], KEYS[2], ARGV[5])
return echo .. '1'
""")

# Keys: record, list. Arguments: entry, expected version or ''. Answers like UPDATE.
DELETE = _script("""
local version, expiry = head(KEYS[1])
if expiry <= now then return echo .. '0' end
if ARGV[4] ~= '' and version ~= ARGV[4] then return echo .. version end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[3])
return echo .. '1'
""")

# Keys: list, some of its records. Arguments: expiry, ttl, their entries. Changes the expiry of the
# live ones.
TOUCH_ALL = _script("""
for i = 2, #KEYS do
  local _, expiry = head(KEYS[i])
  if expiry > now then
    move(KEYS[i], ARGV[3], ARGV[4])
    enlist(KEYS[1], ARGV[3], ARGV[3 + i], ARGV[4])
  end
end
return echo .. '1'
""")

# Keys: list, some of its records or indexes. Arguments: their entries. Deletes them.
DELETE_ALL = _script("""
redis.call('UNLINK', unpack(KEYS, 2))
redis.call('ZREM', KEYS[1], unpack(ARGV, 3))
return echo .. '1'
""")

# Keys: list, changes, some of the records. Arguments: their entries. Deletes the expired ones;
# answers how many.
REAP = _script("""
local count = 0
for i = 3, #KEYS do
  local _, expiry = head(KEYS[i])
  if expiry <= now then
    redis.call('UNLINK', KEYS[i])
    redis.call('ZREM', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
    count = count + 1
  end
end
return echo .. count
""")

# Keys: index, list. Arguments: expiry, ttl, member, entry, expiry up to which members are removed.
# Answers 1, followed by the entry of an index that has such members, if there is one.
ADD_MEMBER = _script("""
enlist(KEYS[1], ARGV[3], ARGV[5], ARGV[4])
clear(KEYS[1], ARGV[7])
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then enlist(KEYS[2], first[2], ARGV[6], ARGV[4]) end
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[7], 'LIMIT', 0, 1)
return echo .. '1' .. (due[1] or '')
""")

# Keys: index, list. Arguments: member, entry. Answers 1 if the member was live, else 0.
REMOVE_MEMBER = _script("""
local expiry = redis.call('ZSCORE', KEYS[1], ARGV[3])
if not expiry then return echo .. '0' end
redis.call('ZREM', KEYS[1], ARGV[3])
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('ZREM', KEYS[2], ARGV[4]) end
return echo .. (tonumber(expiry) > tonumber(now) and '1' or '0')
""")

# Keys: index, list. Arguments: entry, expiry up to which members are removed, limit. Answers how
# many it removed.
REAP_INDEX = _script("""
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[4], 'LIMIT', 0, ARGV[5])
if #old > 0 then redis.call('ZREM', KEYS[1], unpack(old)) end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then
  redis.call('ZADD', KEYS[2], first[2], ARGV[3])
else
  redis.call('ZREM', KEYS[2], ARGV[3])
end
return echo .. #old
""")

# Keys: one. Arguments: a command that reads, and its arguments after the key. Answers its answer.
CALL = _script("""
return {echo, redis.call(ARGV[3], KEYS[1], unpack(ARGV, 4))}
""")

"""What Redis runs for us: each script is one atomic step.

Knows Lua and how a record looks in Redis. Does not know connections, clocks or why.

A record is a string: version (20 digits), expiry (16 digits), identity (16 bytes), value. Digits of
one length compare as text; as Lua's numbers, versions beyond 2^53 would lose their last places. An
expiry of sixteen nines is for ever, and nothing at all sorts before every expiry.

A list is a sorted set that stands beside the records, or the indexes, of a context: what there is,
by when it expires. An index is a sorted set too: its members, by when they expire. In a list, an
index has the time of its member that expires first.

Every script first gets an echo, which begins its answer (so that an answer is known to be this
call's), and what time it is. A script touches no other keys than those it is given. It writes
nothing before it has checked everything, and Redis refuses the first write or none, so that an
error from the server means that nothing was written.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

VERSION_CHARS, EXPIRY_CHARS, IDENTITY_BYTES = 20, 16, 16
HEADER_BYTES = VERSION_CHARS + EXPIRY_CHARS + IDENTITY_BYTES

# How many entries of a list a write clears away. More than it adds, so that a list can't grow for
# ever; few, so that a write has a bounded price.
CLEARED = 4
# A list outlives its longest-lived entry by up to so many milliseconds, so that a sliding expiry
# does not set it anew with every write.
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

local function note(list, expiry, entry, ttl)
  local left = redis.call('PTTL', list)
  redis.call('ZADD', list, expiry, entry)
  if ttl == '' then
    if left >= 0 then redis.call('PERSIST', list) end
  elseif left ~= -1 and left < tonumber(ttl) then
    redis.call('PEXPIRE', list, ttl + {SLACK})
  end
end

local function clear(list, gone)
  local old = redis.call('ZRANGEBYSCORE', list, '-inf', gone, 'LIMIT', 0, {CLEARED})
  if #old > 0 then redis.call('ZREM', list, unpack(old)) end
end
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and the digest that Redis knows it by."""

    text: bytes
    sha: bytes


def _script(text: str) -> Script:
    whole = (_COMMON + text).encode()
    sha = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
    return Script(whole, sha.encode())


# Keys: record, list. More: blob, ttl, entry, gone. Answers 1, or 0 where a record is alive.
CREATE = _script(f"""
local _, expiry = head(KEYS[1])
if expiry > now then return echo .. '0' end
put(KEYS[1], ARGV[3], ARGV[4])
note(KEYS[2], string.sub(ARGV[3], {VERSION_CHARS + 1}, {VERSION_CHARS + EXPIRY_CHARS}),
  ARGV[5], ARGV[4])
clear(KEYS[2], ARGV[6])
return echo .. '1'
""")

# Keys: record, list. More: blob, ttl, entry, expected. Answers 1, 0 where no record is alive, or
# the version that stands in the way.
UPDATE = _script(f"""
local version, expiry = head(KEYS[1])
if expiry <= now then return echo .. '0' end
if ARGV[6] ~= '' and version ~= ARGV[6] or string.sub(ARGV[3], 1, {VERSION_CHARS}) <= version then
  return echo .. version
end
put(KEYS[1], ARGV[3], ARGV[4])
local later = string.sub(ARGV[3], {VERSION_CHARS + 1}, {VERSION_CHARS + EXPIRY_CHARS})
if later ~= expiry then note(KEYS[2], later, ARGV[5], ARGV[4]) end
return echo .. '1'
""")

# Keys: record, list. More: expiry, ttl, entry. Answers 1, or 0 where no record is alive.
MOVE = _script("""
local _, expiry = head(KEYS[1])
if expiry <= now then return echo .. '0' end
move(KEYS[1], ARGV[3], ARGV[4])
note(KEYS[2], ARGV[3], ARGV[5], ARGV[4])
return echo .. '1'
""")

# Keys: record, list. More: entry, expected. Answers as UPDATE.
DELETE = _script("""
local version, expiry = head(KEYS[1])
if expiry <= now then return echo .. '0' end
if ARGV[4] ~= '' and version ~= ARGV[4] then return echo .. version end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[3])
return echo .. '1'
""")

# Keys: list, some of its records. More: expiry, ttl, their entries. Moves those that are alive.
MOVE_ALL = _script("""
for i = 2, #KEYS do
  local _, expiry = head(KEYS[i])
  if expiry > now then
    move(KEYS[i], ARGV[3], ARGV[4])
    note(KEYS[1], ARGV[3], ARGV[3 + i], ARGV[4])
  end
end
return echo .. '1'
""")

# Keys: list, some of its records or indexes. More: their entries. Deletes them.
DELETE_ALL = _script("""
redis.call('UNLINK', unpack(KEYS, 2))
redis.call('ZREM', KEYS[1], unpack(ARGV, 3))
return echo .. '1'
""")

# Keys: list, some of its records. More: their entries. Deletes those that have expired; how many.
REAP = _script("""
local gone = 0
for i = 2, #KEYS do
  local _, expiry = head(KEYS[i])
  if expiry <= now then
    redis.call('UNLINK', KEYS[i])
    redis.call('ZREM', KEYS[1], ARGV[1 + i])
    gone = gone + 1
  end
end
return echo .. gone
""")

# Keys: index, list. More: expiry, ttl, member, entry, gone. Answers 1, and behind it the entry of
# an index that has members to clear away, if there is one.
ADD = _script("""
note(KEYS[1], ARGV[3], ARGV[5], ARGV[4])
clear(KEYS[1], ARGV[7])
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then note(KEYS[2], first[2], ARGV[6], ARGV[4]) end
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[7], 'LIMIT', 0, 1)
return echo .. '1' .. (due[1] or '')
""")

# Keys: index, list. More: member, entry. Answers whether the member was alive.
REMOVE = _script("""
local expiry = redis.call('ZSCORE', KEYS[1], ARGV[3])
if not expiry then return echo .. '0' end
redis.call('ZREM', KEYS[1], ARGV[3])
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('ZREM', KEYS[2], ARGV[4]) end
return echo .. (tonumber(expiry) > tonumber(now) and '1' or '0')
""")

# Keys: index, list. More: entry, gone, limit. Removes members that expired by `gone`; how many.
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

# Keys: one. More: a command that reads, and what follows the key in it. Answers what it answers.
LOOK = _script("""
return {echo, redis.call(ARGV[3], KEYS[1], unpack(ARGV, 4))}
""")

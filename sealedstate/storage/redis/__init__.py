"""A store in Redis or Valkey: `RedisStorage`. As durable as the server is configured.

A read is one GET. Every other operation on a record or a member is one script: one round trip, one
atomic step. The store's clock says what time it is, and a record's expiry counts to the
millisecond; Redis's own expiry comes GRACE later and only frees the memory.

Names: `sealedstate:{CONTEXT}:r:KEY` is a record, `:i:KEY` an index, `:records` and `:indexes` are
the lists of a context's records and indexes; CONTEXT and KEY are digests. In a cluster, BUCKETS
lists of each kind share the records of a context by the first byte of the key's digest, and that
byte in hexadecimal follows CONTEXT: `{CONTEXT.1f}`. The braces put all names of a bucket into one
hash slot, so that its scripts run on one node, and the records of a user spread over the nodes.
For the contexts in `FOLLOWED`, but not in a cluster, `:feed` has the number of the last write, and
`:changes` the records by number.

A Redis user with limited rights needs the keys `sealedstate:*` and the commands `get echo eval
evalsha set getrange setrange persist pexpire pttl del unlink exists zadd zrem zrange zrangebyscore
zscore zscan scan hsetnx hincrby hmget mget`, in a cluster `asking cluster|slots`, too, and `wait`
for `sealedstate_wait`. Without `config` and `info`, the store declares no durability, and without
`info` it cannot be followed. With `publish subscribe` and the channel `sealedstate:changed`, other
processes learn at once that something has changed, and not within a second.

Operations on a context process PAGE records per step, so that other clients do not wait for long.
If one fails, it can be repeated. `keys` is a snapshot, and therefore one answer of any length.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import StorageError, VersionMismatch
from ..contract import (
    FOLLOWED,
    LATEST,
    NAME_CHARS,
    Capabilities,
    Changes,
    Clock,
    Listener,
    Stored,
    check_arguments,
    context_digest,
    key_digest,
    millis,
    printable,
    reap_time,
    utf8,
)
from ..requirements import SURVIVES_RESTART, USES
from . import _scripts as scripts
from ._client import RedisClient

if TYPE_CHECKING:
    from redis import Redis
    from redis.cluster import RedisCluster

__all__ = ["RedisStorage"]

# Nodes whose clocks differ by less than this agree on which records are live.
GRACE = 300_000
# For how long capabilities are kept: those of a server that answered, and of one that did not.
CAPABILITIES_LAST, SILENCE_LASTS = 60_000, 1_000
PAGE = 500
# The channel on which processes hint to others that what they follow has changed.
HINTS = b"sealedstate:changed"
# How many steps through the server's keys a call of `reap` makes at most, and how large they are.
REAP_STEPS, REAP_STEP = 20, b"1000"

# The scripts that number the write of a record that is followed.
_NUMBERED = (scripts.CREATE, scripts.UPDATE, scripts.UPDATE_EXPIRATION)
# What may be lost at a restart need not be confirmed by replicas.
_UNCONFIRMED = {
    context
    for use in USES.values()
    if SURVIVES_RESTART not in use.needs
    for context in use.contexts
}

_PERMANENT = 10**scripts.EXPIRY_CHARS - 1
_LONGEST_TTL = 100 * 365 * 86_400_000
_OFFSET = 1 << 63  # makes every version a number of 20 digits

_UNKNOWN = Capabilities(
    context_bytes=1 << 16,
    key_bytes=1 << 16,
    value_bytes=1 << 24,
    shared=True,
    durable=False,
    survives_restart=False,
    evicts=True,
    enumerable=True,
    native_expiry=True,
    assumed=True,
    reasons=dict.fromkeys(
        ("durable", "survives_restart", "evicts"), "the server has not reported its settings yet"
    ),
)


class RedisStorage:
    """Records in Redis servers: those of a URL, or of a client of redis-py, whose pool is used.

    `timeout`: seconds to wait for the servers of a URL; a client has its own timeouts. `wait`: a
    write that must last is acknowledged when as many replicas have it, too.

    Raises ConfigurationError if the URL is not one of Redis servers.
    """

    _address = "not opened"

    def __init__(
        self,
        servers: str | Redis | RedisCluster,
        clock: Clock,
        *,
        timeout: float = 0.5,
        wait: int = 0,
    ) -> None:
        self._clock = clock
        self._client = RedisClient(servers, timeout, wait)
        self._address = self._client.address
        self._buckets = self._client.buckets
        self._capabilities = _UNKNOWN
        self._capabilities_of, self._capabilities_until = -1, 0
        self._reap_cursors: dict[object, bytes] = {}
        self._may_publish = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address})"

    @property
    def capabilities(self) -> Capabilities:
        """By the server's settings, read again after a minute and after each new connection.

        While the server does not answer: what it reported last, or conservative defaults. Of the
        nodes of a cluster, the weakest counts, and they are asked each minute only.
        """
        now, connects = self._now(), self._client.connects
        left = self._capabilities_until - now
        # Each connection to each node of a cluster would be a reason to ask all of them.
        is_new = self._capabilities_of != connects and (
            self._buckets == 1 or self._capabilities.assumed
        )
        if is_new or not 0 < left <= CAPABILITIES_LAST:
            self._capabilities_until = now + SILENCE_LASTS
            with contextlib.suppress(StorageError):
                found = [
                    capabilities_by(
                        self._client.read_many(*SETTINGS_COMMANDS, node=node), self._client.wait
                    )
                    for node in self._client.every()
                ]
                self._capabilities = found[0] if self._buckets == 1 else weakest(found)
                self._capabilities_until = now + CAPABILITIES_LAST
            self._capabilities_of = self._client.connects
        return self._capabilities

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        check_arguments(_UNKNOWN, context, key, value, expires_at, version)
        now, place = self._now(), _place(context, key, self._buckets)
        expiry, ttl = _format_expiry(expires_at, now)
        record = _format_version(version) + expiry + place.identity + value
        arguments = (_format_time(now), record, ttl, place.entry, b"%d" % reap_time(now))
        return _parse_answer(self._write(context, scripts.CREATE, place.keys, arguments, version))

    def read(self, context: str, key: str) -> Stored | None:
        check_arguments(_UNKNOWN, context, key)
        place = _place(context, key, self._buckets)
        return self._parse_record(self._client.read(b"GET", place.keys[0], accept=place.owns))

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        check_arguments(_UNKNOWN, context, key, value, expires_at, version, expected)
        now, place = self._now(), _place(context, key, self._buckets)
        expiry, ttl = _format_expiry(expires_at, now)
        record = _format_version(version) + expiry + place.identity + value
        arguments = (_format_time(now), record, ttl, place.entry, _format_version(expected))
        return _parse_answer(self._write(context, scripts.UPDATE, place.keys, arguments, version))

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        check_arguments(_UNKNOWN, context, key, b"", None, expected)
        place = _place(context, key, self._buckets)
        arguments = (_format_time(self._now()), place.entry, _format_version(expected))
        return _parse_answer(self._write(context, scripts.DELETE, place.keys, arguments))

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        check_arguments(_UNKNOWN, context, "any")
        live = (b"(%d" % self._now(), b"+inf")
        lists = [names.records for names in _all_names(context, self._buckets)]
        answers = self._call_each(lists, b"ZRANGEBYSCORE", *live)
        found = [entry[NAME_CHARS:].decode() for entries in answers for entry in entries]
        return iter([key for key in found if key.startswith(prefix)])

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        text = utf8(member)
        check_arguments(_UNKNOWN, context, key, text, expires_at)
        now, (keys, entry) = self._now(), _index(context, key, self._buckets)
        before = b"%d" % reap_time(now)
        arguments = (_format_time(now), *_format_expiry(expires_at, now), text, entry, before)
        due = self._write(context, scripts.ADD_MEMBER, keys, arguments)[1:]
        if due:
            # The member was added; if the clean-up fails, the call has still succeeded.
            with contextlib.suppress(StorageError):
                self._reap_index(_ContextNames(_base(keys[1])), due, before, PAGE)

    def remove_member(self, context: str, key: str, member: str) -> bool:
        text = utf8(member)
        check_arguments(_UNKNOWN, context, key, text)
        keys, entry = _index(context, key, self._buckets)
        arguments = (_format_time(self._now()), text, entry)
        return _parse_answer(self._write(context, scripts.REMOVE_MEMBER, keys, arguments))

    def members(self, context: str, key: str) -> dict[str, int | None]:
        check_arguments(_UNKNOWN, context, key)
        (index, _), _ = _index(context, key, self._buckets)
        live = (b"(%d" % self._now(), b"+inf", b"WITHSCORES")
        (found,) = self._call_each([index], b"ZRANGEBYSCORE", *live)
        times = [None if float(time) > LATEST else int(time) for time in found[1::2]]
        return {member.decode(): at for member, at in zip(found[::2], times, strict=True)}

    def ping(self) -> None:
        self._client.check()

    def reap(self, limit: int) -> int:
        """As the contract says. The next call continues at the same point of the keyspace."""
        removed = 0
        for node in self._client.every():
            for _ in range(REAP_STEPS):
                cursor = self._reap_cursors.get(node, b"0")
                step = (b"SCAN", cursor, b"MATCH", b"sealedstate:{*}:*s", b"COUNT", REAP_STEP)
                cursor, lists = self._client.read(*step, node=node)
                for name in lists:
                    removed += self._reap_list(name, limit - removed)
                if removed >= limit:
                    return removed
                self._reap_cursors[node] = cursor
                if cursor == b"0":
                    break
        return removed

    def close(self) -> None:
        self._client.close()

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        check_arguments(_UNKNOWN, context, key, b"", expires_at)
        now, place = self._now(), _place(context, key, self._buckets)
        arguments = (_format_time(now), *_format_expiry(expires_at, now), place.entry)
        return _parse_answer(self._write(context, scripts.UPDATE_EXPIRATION, place.keys, arguments))

    def touch_context(self, context: str, expires_at: int | None) -> None:
        check_arguments(_UNKNOWN, context, "any", b"", expires_at)
        if self._is_followed(context):
            for key in self.keys(context):
                self.update_expiration(context, key, expires_at)
            return
        now = self._now()
        for names in self._filled(context, b"records"):
            cursor = b""
            while cursor != b"0":
                # An entry may be returned twice, which does no harm.
                start = (cursor or b"0", b"COUNT", b"%d" % PAGE)
                (found,) = self._call_each([names.records], b"ZSCAN", *start)
                cursor, entries = found[0], found[1][::2]
                if entries:
                    keys = (names.records, *names.of(b"r:", entries))
                    arguments = (_format_time(now), *_format_expiry(expires_at, now), *entries)
                    self._write(context, scripts.TOUCH_ALL, keys, arguments)

    def delete_context(self, context: str) -> None:
        check_arguments(_UNKNOWN, context, "any")
        page = (b"ZRANGE", b"0", b"%d" % (PAGE - 1))
        for name, kind in ((b"records", b"r:"), (b"indexes", b"i:")):
            for names in self._filled(context, name):
                key = names.base + name
                while entries := self._call_each([key], *page)[0]:
                    keys = (key, *names.of(kind, entries))
                    self._write(context, scripts.DELETE_ALL, keys, (b"", *entries))

    def prepare(self) -> None:
        self.ping()

    def changes(self, after: str | None, limit: int) -> Changes:
        if self._buckets > 1:
            raise StorageError(
                "a Redis Cluster can't be followed (its capability `changes` is False)"
            )
        # After a restart, or with another server, numbers may have been given again.
        contexts = sorted(FOLLOWED)
        known, *marks = (after or ":".join(["", *[":0"] * len(contexts)])).split(":")
        numbers = [int(number) for number in marks[1::2]]
        commands: list[Sequence[bytes]] = [(b"INFO", b"server")]
        for context, number in zip(contexts, numbers, strict=True):
            (names,), page = _all_names(context, 1), (b"LIMIT", b"0", b"%d" % limit)
            commands += [
                (b"HMGET", names.feed, b"incarnation", b"number"),
                (b"ZRANGEBYSCORE", names.changes, b"(%d" % number, b"+inf", b"WITHSCORES", *page),
            ]
        (node,) = self._client.every()
        info, *answers = self._client.read_many(*commands, node=node)
        run = None if info is None else _settings_of([info]).get("run_id")
        if run is None or None in answers:
            raise self._client.unavailable("its user may not read what has changed (INFO, HMGET)")
        incarnations = [(feed[0] or b"").hex() for feed in answers[::2]]
        went_back = any(
            int(feed[1] or 0) < number for feed, number in zip(answers[::2], numbers, strict=True)
        )
        if after is not None and (went_back or [run, *incarnations] != [known, *marks[::2]]):
            return self.changes(None, limit)
        left, records = limit, list[tuple[str, str, Stored]]()
        for at, (context, found) in enumerate(zip(contexts, answers[1::2], strict=True)):
            if found and not isinstance(found[0], list):  # RESP2 has no pairs
                found = list(zip(found[::2], found[1::2], strict=True))
            entries = [entry for entry, _ in found[:left]]
            if not entries:
                continue
            numbers[at] = int(found[len(entries) - 1][1])
            left -= len(entries)
            values = self._client.read(b"MGET", *_all_names(context, 1)[0].of(b"r:", entries))
            for entry, value in zip(entries, values, strict=True):
                key = entry[NAME_CHARS:].decode()
                if not _place(context, key, 1).owns(value):
                    raise self._client.unavailable("a record is not what its key says")
                stored = self._parse_record(value)
                if stored is not None:
                    records.append((context, key, stored))
        marks = [f"{each}:{number}" for each, number in zip(incarnations, numbers, strict=True)]
        return Changes(records, ":".join([run, *marks]), left > 0, after is None)

    def listen(self) -> Listener | None:
        return self._client.subscribe(HINTS) if self._buckets == 1 else None

    def notify(self) -> None:
        if self._buckets == 1 and self._may_publish:
            (node,) = self._client.every()
            (answer,) = self._client.read_many((b"PUBLISH", HINTS, b""), node=node)
            self._may_publish = answer is not None

    def _parse_record(self, record: bytes | None) -> Stored | None:
        if record is None:
            return None
        expiry = int(record[scripts.VERSION_CHARS : scripts.VERSION_CHARS + scripts.EXPIRY_CHARS])
        stored = Stored(
            record[scripts.HEADER_BYTES :],
            int(record[: scripts.VERSION_CHARS]) - _OFFSET,
            None if expiry == _PERMANENT else expiry,
        )
        is_live = stored.expires_at is None or stored.expires_at > self._now()
        return stored if is_live else None

    # --- lists ----------------------------------------------------------------------------------

    def _call_each(self, keys: Sequence[bytes], command: bytes, *arguments: bytes) -> list[Any]:
        """Return the answers of a command that reads one key, for each of several."""
        return self._client.call_each(
            scripts.CALL, [(key, b"", command, *arguments) for key in keys]
        )

    def _filled(self, context: str, name: bytes) -> Sequence[_ContextNames]:
        """Return the buckets of a context whose list of that name is not empty."""
        every = _all_names(context, self._buckets)
        if len(every) == 1:
            return every
        first = self._call_each([names.base + name for names in every], b"ZRANGE", b"0", b"0")
        return [names for names, entries in zip(every, first, strict=True) if entries]

    def _write(
        self,
        context: str,
        script: scripts.Script,
        keys: Sequence[bytes],
        arguments: Sequence[bytes],
        version: int | None = None,
    ) -> Any:
        if script in _NUMBERED and self._is_followed(context):
            (names,) = _all_names(context, 1)
            keys = (*keys, names.feed, names.changes)
        return self._client.run(
            script,
            keys,
            *arguments,
            version=version,
            is_confirmed=context not in _UNCONFIRMED,
        )

    def _is_followed(self, context: str) -> bool:
        # The buckets of a cluster are on several nodes, which have no common number.
        return context in FOLLOWED and self._buckets == 1

    def _reap_list(self, name: bytes, limit: int) -> int:
        names, removed = _ContextNames(_base(name)), 0
        if name not in (names.records, names.indexes):
            return 0
        while removed < limit:
            page, now = min(limit - removed, PAGE), reap_time(self._now())
            due = (b"-inf", b"%d" % now, b"LIMIT", b"0", b"%d" % page)
            (entries,), count = self._call_each([name], b"ZRANGEBYSCORE", *due), 0
            if name == names.records and entries:
                keys = (name, names.changes, *names.of(b"r:", entries))
                count = int(self._client.run(scripts.REAP, keys, _format_time(now), *entries))
            else:
                for entry in entries:
                    count += self._reap_index(names, entry, b"%d" % now, page - count)
            removed += count
            if count < page:
                break
        return removed

    def _reap_index(self, names: _ContextNames, entry: bytes, before: bytes, limit: int) -> int:
        keys = (*names.of(b"i:", [entry]), names.indexes)
        arguments = (b"", entry, before, b"%d" % limit)
        return int(self._client.run(scripts.REAP_INDEX, keys, *arguments))

    def _now(self) -> int:
        return max(millis(self._clock()), 0)


# --- names --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _ContextNames:
    """The Redis keys of one context; all begin with `base`."""

    base: bytes

    @property
    def records(self) -> bytes:
        return self.base + b"records"

    @property
    def indexes(self) -> bytes:
        return self.base + b"indexes"

    @property
    def feed(self) -> bytes:
        return self.base + b"feed"

    @property
    def changes(self) -> bytes:
        return self.base + b"changes"

    def of(self, kind: bytes, entries: Sequence[bytes]) -> list[bytes]:
        """Return the keys of records (r:) or indexes (i:) from their entries in the list."""
        return [self.base + kind + entry[:NAME_CHARS] for entry in entries]


class _Place(NamedTuple):
    """A record's key and its list's key, its entry in the list, and its identity."""

    keys: tuple[bytes, bytes]
    entry: bytes
    identity: bytes

    def owns(self, record: Any) -> bool:
        """Whether an answer is this record or its absence, and not another record."""
        begin = scripts.HEADER_BYTES - scripts.IDENTITY_BYTES
        return record is None or record[begin : scripts.HEADER_BYTES] == self.identity


@functools.lru_cache(maxsize=64)
def _all_names(context: str, buckets: int) -> Sequence[_ContextNames]:
    """Return the names of each bucket of a context."""
    begin = b"sealedstate:{" + printable(context_digest(context))
    if buckets == 1:
        return [_ContextNames(begin + b"}:")]
    return [_ContextNames(begin + b".%02x}:" % number) for number in range(buckets)]


def _base(name: bytes) -> bytes:
    """Return how all names of a bucket begin, from one of them."""
    return name[: name.index(b"}") + 2]


def _place(context: str, key: str, buckets: int) -> _Place:
    digest = key_digest(context, key)
    names = _all_names(context, buckets)[digest[0] % buckets]
    entry = printable(digest) + key.encode()
    record = names.base + b"r:" + entry[:NAME_CHARS]
    return _Place((record, names.records), entry, digest[: scripts.IDENTITY_BYTES])


def _index(context: str, key: str, buckets: int) -> tuple[tuple[bytes, bytes], bytes]:
    """Return an index's key and its list's key, and its entry in the list."""
    digest = key_digest(context, key)
    names, entry = _all_names(context, buckets)[digest[0] % buckets], printable(digest)
    return (names.base + b"i:" + entry, names.indexes), entry


# --- arguments and answers ----------------------------------------------------------------------


def _format_time(now: int) -> bytes:
    return b"%016d" % now


def _format_expiry(expires_at: int | None, now: int) -> tuple[bytes, bytes]:
    """Return an expiry as it is stored, and Redis's time to live in ms; b"" is permanent."""
    if expires_at is None:
        return b"%d" % _PERMANENT, b""
    left = max(expires_at - now, 0) + GRACE
    return b"%016d" % expires_at, b"%d" % left if left < _LONGEST_TTL else b""


def _format_version(version: int | None) -> bytes:
    return b"" if version is None else b"%020d" % (version + _OFFSET)


def _parse_answer(answer: bytes) -> bool:
    """Return whether a script wrote. Raises VersionMismatch if it answered with a version."""
    if len(answer) == scripts.VERSION_CHARS:
        raise VersionMismatch(int(answer) - _OFFSET)
    return answer == b"1"


# --- capabilities by the server's settings ------------------------------------------------------

# A capability is claimed only if the server's settings say so. INFO answers if CONFIG is forbidden.
SETTINGS_COMMANDS: tuple[tuple[bytes, ...], ...] = (
    (b"CONFIG", b"GET", b"append*"),
    (b"CONFIG", b"GET", b"save"),
    (b"CONFIG", b"GET", b"maxmemory*"),
    (b"CONFIG", b"GET", b"min-replicas-to-write"),
    (b"INFO", b"persistence"),
    (b"INFO", b"memory"),
    (b"INFO", b"replication"),
    (b"INFO", b"server"),
)

# With everysec, Redis holds back acknowledged writes during an fsync, for up to two seconds: with a
# disk that took 0.3 s for each, 7 of 20 kill -9 lost some hundred writes. With no, it holds nothing
# back, but a crash of the machine loses up to half a minute.
_FSYNC_COSTS = {
    "everysec": ": a crash while the disk is slow costs two seconds of writes; always costs none",
    "no": ": the machine's crash costs what the system has not yet written; always costs none",
}


def weakest(nodes: Sequence[Capabilities]) -> Capabilities:
    """Return the capabilities of a cluster from those of its nodes."""
    reasons = {**nodes[0].reasons, "changes": "the nodes of a cluster do not number their writes"}
    found = replace(nodes[0], changes=False, reasons=reasons)
    weak = {"durable": False, "survives_restart": False, "evicts": True}
    for node in nodes[1:]:
        for name, value in weak.items():
            if getattr(node, name) is value and getattr(found, name) is not value:
                names = (name, "enumerable", "contexts") if name == "evicts" else (name,)
                reasons = {each: node.reasons[each] for each in names}
                found = replace(found, **{name: value}, reasons={**found.reasons, **reasons})
    return replace(
        found, advice=tuple(dict.fromkeys(line for node in nodes for line in node.advice))
    )


def capabilities_by(answers: Sequence[Any], wait: int = 0) -> Capabilities:
    """Return the capabilities of a server from its answers to SETTINGS_COMMANDS.

    `wait`: how many replicas confirm a write.
    """
    settings = _settings_of(answers)
    durable, survives_restart, why_durable = _persistence(settings, wait)
    limit = settings.get("maxmemory")
    policy = settings.get("maxmemory-policy", settings.get("maxmemory_policy"))
    if limit is None or policy is None:
        evicts, why_evicts = True, "the server reports neither CONFIG nor INFO memory"
    else:
        evicts = limit != "0" and policy != "noeviction"
        why_evicts = f"maxmemory {limit}, maxmemory-policy {policy}"
    changes = "run_id" in settings and settings.get("role") != "slave"
    reasons = {"durable": why_durable, "survives_restart": why_durable, "evicts": why_evicts}
    if not changes:
        reasons["changes"] = "INFO server is forbidden, or it is a replica"
    if evicts:
        reasons["enumerable"] = reasons["contexts"] = (
            f"{why_evicts}: it may evict the list of a context's keys, too"
        )
    return replace(
        _UNKNOWN,
        assumed=False,
        durable=durable,
        survives_restart=survives_restart,
        evicts=evicts,
        changes=changes,
        reasons=reasons,
        advice=tuple(_advise(settings, wait, evicts)),
    )


def _advise(settings: Mapping[str, str], wait: int, evicts: bool) -> Iterator[str]:
    """Yield what an operator should change."""
    if not {"appendonly", "maxmemory-policy"} <= settings.keys():
        yield "allow the user CONFIG|GET, so that the settings are known"
    elif settings["appendonly"] != "yes":
        yield (
            "if logouts are kept here, set appendonly yes, and appendfsync always if no crash may"
            " cost one"
        )
    elif settings.get("appendfsync") != "always":
        yield "set appendfsync always, if no crash may cost a logout"
    if evicts and "maxmemory-policy" in settings:
        yield "set maxmemory-policy noeviction, if more than stored parts are kept here"
    replicas = int(settings.get("connected_slaves", "0"))
    if replicas and not wait:
        yield "add sealedstate_wait=1 to the URL, so that a failover keeps acknowledged logouts"
    elif replicas < wait:
        yield f"start replicas: there are {replicas}, and sealedstate_wait={wait} waits for {wait}"
    if replicas and settings.get("min-replicas-to-write") == "0":
        yield (
            "set min-replicas-to-write 1, so that a primary that is cut off takes no writes that a"
            " failover loses"
        )


def _settings_of(answers: Sequence[Any]) -> dict[str, str]:
    """The settings by name, without those that the server does not report."""
    settings: dict[str, str] = {}
    for answer in answers:
        if isinstance(answer, dict):  # by RESP3, which a client may speak
            answer = [word for pair in answer.items() for word in pair]
        if isinstance(answer, list):
            words = [word.decode(errors="replace") for word in answer]
            settings.update(zip(words[::2], words[1::2], strict=False))
        elif isinstance(answer, bytes):
            lines = (line.partition(":") for line in answer.decode(errors="replace").splitlines())
            settings.update({name: value for name, colon, value in lines if colon})
    return settings


def _persistence(settings: Mapping[str, str], wait: int) -> tuple[bool, bool, str]:
    """Return whether writes survive a crash, whether they survive a restart, and why."""
    if settings.get("role") == "slave":
        return False, False, "role slave: it is a replica, and its primary decides"
    if settings.get("appendonly") == "yes":
        policy = settings.get("appendfsync", "unknown")
        durable, survives_restart = policy == "always", True
        why = f"appendonly yes, appendfsync {policy}{_FSYNC_COSTS.get(policy, '')}"
    elif "appendonly" in settings:
        durable, survives_restart = False, bool(settings.get("save"))
        why = f"appendonly no, save {settings.get('save', '')!r}"
        if survives_restart:
            why += ": a crash costs what came after a snapshot"
    elif "aof_enabled" in settings:
        durable, survives_restart = False, settings["aof_enabled"] == "1"
        unknown = "appendfsync" if survives_restart else "save"
        why = (
            f"aof_enabled {settings['aof_enabled']}"
            f" (INFO; CONFIG is forbidden, so {unknown} is not known)"
        )
    else:
        durable, survives_restart = False, False
        why = "the server reports neither CONFIG nor INFO persistence"
    replicas = settings.get("connected_slaves", "0")
    if wait:
        kept = "it" if wait == 1 else "one of these"
        why += (
            f"; sealedstate_wait {wait}, connected_slaves {replicas}: logouts, and what else must"
            f" last, are acknowledged when {wait} {'replica has' if wait == 1 else 'replicas have'}"
            f" them in memory, and a failover to {kept} keeps them"
        )
    elif replicas != "0":
        why += (
            f"; connected_slaves {replicas}: if one takes over, the writes are lost that had not"
            " reached it (replication is asynchronous)"
        )
    return durable, survives_restart, why

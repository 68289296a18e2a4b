"""A Redis server as an operator gives it, and what it can do as it tells of itself.

Knows URLs and the names of Redis's settings. Does not know connections.

What a record may rely on is a matter of the server's configuration, so the server is asked for it
(CONFIG GET, and INFO where CONFIG is forbidden) and a capability is claimed for what it says only.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import ConfigurationError
from ..contract import Capabilities

_SCHEMES = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
_TLS_OPTIONS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
_FORM = (
    "storage: a Redis server is given as redis://[[user]:password@]host[:port][/database], or as"
    " rediss:// for TLS"
)


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is, and how it is greeted."""

    host: str
    port: int
    database: int
    user: str = field(repr=False)
    password: str = field(repr=False)
    tls: bool
    options: Mapping[str, Any] = field(repr=False)

    @property
    def address(self) -> str:
        """Host and port, for messages."""
        return f"{self.host}:{self.port}"

    def greeting(self) -> list[Sequence[bytes]]:
        """The commands that a new connection begins with."""
        commands: list[Sequence[bytes]] = []
        if self.password:
            login = [self.user, self.password] if self.user else [self.password]
            commands.append((b"AUTH", *(word.encode() for word in login)))
        if self.database:
            commands.append((b"SELECT", b"%d" % self.database))
        return commands


def parse_server(url: str) -> Server:
    """The server that a URL names.

    Raises ConfigurationError, which does not quote the URL: a password may stand in it.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        tls, port = _SCHEMES[parts.scheme], parts.port or 6379
        database = int(parts.path.removeprefix("/") or "0")
    except (ValueError, KeyError):
        raise ConfigurationError(_FORM) from None
    if not parts.hostname or database < 0 or parts.fragment:
        raise ConfigurationError(_FORM)
    user, password = (urllib.parse.unquote(word or "") for word in (parts.username, parts.password))
    if user and not password:
        raise ConfigurationError("storage: the Redis server's URL has a user but no password")
    return Server(parts.hostname, port, database, user, password, tls, _options(tls, parts.query))


def _options(tls: bool, query: str) -> Mapping[str, Any]:
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    unknown = sorted(options.keys() - (_TLS_OPTIONS if tls else set()))
    if unknown:
        raise ConfigurationError(
            f"storage: the Redis server's URL has an option {unknown[0]!r}; there are"
            f" {', '.join(sorted(_TLS_OPTIONS))}, with rediss:// only"
        )
    return options


# --- what it can do -------------------------------------------------------------------------------

QUESTIONS: tuple[tuple[bytes, ...], ...] = (
    (b"CONFIG", b"GET", b"append*"),
    (b"CONFIG", b"GET", b"save"),
    (b"CONFIG", b"GET", b"maxmemory*"),
    (b"INFO", b"persistence"),
    (b"INFO", b"memory"),
    (b"INFO", b"replication"),
)

UNKNOWN = Capabilities(
    context_bytes=1 << 16,
    key_bytes=1 << 16,
    value_bytes=1 << 24,
    shared=True,
    durable=False,
    survives_restart=False,
    evicts=True,
    enumerable=True,
    expires_itself=True,
    presumed=True,
    because=dict.fromkeys(
        ("durable", "survives_restart", "evicts"), "the server has not told its settings yet"
    ),
)


def capabilities(answers: Sequence[Any]) -> Capabilities:
    """What a server can do that answered QUESTIONS so."""
    settings = _settings(answers)
    durable, survives, kept = _persistence(settings)
    evicts, why_evicts = _eviction(settings)
    because = {"durable": kept, "survives_restart": kept, "evicts": why_evicts}
    if evicts:
        # What relies on a context being whole relies on a store that does not evict.
        because["enumerable"] = because["contexts"] = (
            f"{why_evicts}: it may evict the list of a context's keys, too"
        )
    return replace(
        UNKNOWN,
        presumed=False,
        durable=durable,
        survives_restart=survives,
        evicts=evicts,
        because=because,
    )


def _settings(answers: Sequence[Any]) -> dict[str, str]:
    """Settings and facts by name; those that the server keeps to itself are missing."""
    settings: dict[str, str] = {}
    for answer in answers:
        if isinstance(answer, list):
            words = [word.decode(errors="replace") for word in answer]
            settings.update(zip(words[::2], words[1::2], strict=False))
        elif isinstance(answer, bytes):
            lines = (line.partition(":") for line in answer.decode(errors="replace").splitlines())
            settings.update({name: value for name, colon, value in lines if colon})
    return settings


def _persistence(settings: Mapping[str, str]) -> tuple[bool, bool, str]:
    """Whether writes survive a crash and a restart, and why."""
    if settings.get("role") == "slave":
        return False, False, "role slave: it is a replica, and its primary decides"
    durable, survives, why = _files(settings)
    if settings.get("connected_slaves", "0") != "0":
        why += (
            f"; connected_slaves {settings['connected_slaves']}: when one takes over, the writes"
            " are lost that had not reached it (replication is asynchronous)"
        )
    return durable, survives, why


def _files(settings: Mapping[str, str]) -> tuple[bool, bool, str]:
    if "appendonly" not in settings:
        return _files_as_far_as_told(settings)
    if settings["appendonly"] == "yes":
        policy = settings.get("appendfsync", "unknown")
        return (
            policy == "always",
            True,
            f"appendonly yes, appendfsync {policy}{_COST.get(policy, '')}",
        )
    if settings.get("save"):
        why = f"appendonly no, save {settings['save']!r}: a crash costs what came after a snapshot"
        return False, True, why
    return False, False, "appendonly no, save ''"


# With everysec, Redis holds back what it has acknowledged while an fsync is under way, for up to
# two seconds: with a disk that took 0.3 s for each, 7 of 20 kill -9 cost some hundred writes. With
# no, nothing is held back, but the machine's crash costs half a minute.
_COST = {
    "everysec": ": a crash while the disk is slow costs two seconds of writes; always costs none",
    "no": ": the machine's crash costs what the system has not yet written; always costs none",
}


def _files_as_far_as_told(settings: Mapping[str, str]) -> tuple[bool, bool, str]:
    found = settings.get("aof_enabled")
    if found == "1":
        return False, True, "aof_enabled 1 (INFO; CONFIG is forbidden, so appendfsync is not known)"
    if found == "0":
        return False, False, "aof_enabled 0 (INFO; CONFIG is forbidden, so save is not known)"
    return False, False, "the server tells neither CONFIG nor INFO persistence"


def _eviction(settings: Mapping[str, str]) -> tuple[bool, str]:
    most = settings.get("maxmemory")
    policy = settings.get("maxmemory-policy", settings.get("maxmemory_policy"))
    if most is None or policy is None:
        return True, "the server tells neither CONFIG nor INFO memory"
    evicts = most != "0" and policy != "noeviction"
    return evicts, f"maxmemory {most}, maxmemory-policy {policy}"

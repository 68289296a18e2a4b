"""What each use needs of a store, and whether a store's capabilities meet it.

Knows uses, capabilities and sentences. Does not know any backend: it is told capabilities.

A mismatch is found when the application starts, not at three in the morning, and is one sentence
that names the use, the need and the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..errors import StorageError
from .contract import Capabilities, Storage, Stored, millis


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that a use needs: what a capability has to be, and how that is said."""

    capability: str
    right: bool | int
    wanted: str
    found: str

    def met(self, capabilities: Capabilities) -> bool:
        """Whether a store that can this is good enough."""
        return bool(getattr(capabilities, self.capability) == self.right)


KEPT_FROM_THE_VISITOR = Need(
    "server_side", True, "is out of the visitor's hands", "is in the visitor's hands"
)
SHARED = Need("shared", True, "is seen by every process", "is seen by one process only")
NOT_EVICTING = Need("evicts", False, "does not evict", "evicts")
NOT_FORGETTING = Need(
    "survives_restart", True, "does not forget at a restart", "forgets at a restart"
)
# Of a part, an older version than the cookie's counts as lost; of a watermark, it lets in.
CURRENT = Need(
    "staleness", 0, "answers with what was written last", "may answer with what was there before"
)
DURABLE = Need(
    "durable",
    True,
    "loses no acknowledged write in a crash",
    "loses acknowledged writes in a crash",
)
ENUMERABLE = Need("enumerable", True, "lists what it holds", "does not list what it holds")
INDEXES = Need("indexes", True, "has indexes", "has no indexes")


@dataclass(frozen=True, slots=True)
class Use:
    """Something that sealedstate does with a store. `title` is how a sentence calls it.

    `contexts`: where it keeps what it has; none for a use that no part of this release makes.
    `lasting`: whether that outlives any key that seals sessions.
    """

    title: str
    purpose: str
    needs: tuple[Need, ...]
    contexts: tuple[str, ...] = ()
    lasting: bool = False


USES: Mapping[str, Use] = {
    use.title: use
    for use in (
        Use(
            "spilling",
            "parts of a session that fit into no cookie",
            (KEPT_FROM_THE_VISITOR, CURRENT),
            ("sealedstate.part",),
        ),
        Use(
            "revocation",
            "sessions that were logged out, until they would have expired",
            (KEPT_FROM_THE_VISITOR, SHARED, NOT_EVICTING, NOT_FORGETTING, CURRENT),
            ("sealedstate.revoked", "sealedstate.watermark"),
        ),
        Use(
            "ring",
            'the keys of all nodes, where keys = "store:"',
            (KEPT_FROM_THE_VISITOR, SHARED, NOT_EVICTING, NOT_FORGETTING, CURRENT, DURABLE),
            ("sealedstate.ring",),
        ),
        Use(
            "replay",
            "messages that were seen, so that none counts twice",
            (KEPT_FROM_THE_VISITOR, SHARED, NOT_EVICTING, NOT_FORGETTING),
            ("sealedstate.sso.replay",),
        ),
        Use(
            "artifacts",
            "one-time values that exactly one asker gets",
            (KEPT_FROM_THE_VISITOR, SHARED),
            ("sealedstate.sso.artifact",),
        ),
        Use(
            "consent",
            "what a user agreed to, kept for years",
            (KEPT_FROM_THE_VISITOR, SHARED, NOT_EVICTING, NOT_FORGETTING, DURABLE, ENUMERABLE),
            ("sealedstate.sso.consent",),
            lasting=True,
        ),
        Use(
            "logins",
            "the index that leads from a service's logout request to sessions",
            (KEPT_FROM_THE_VISITOR, SHARED, NOT_EVICTING, NOT_FORGETTING, INDEXES),
            ("sealedstate.sso.index",),
        ),
        Use(
            "logout",
            "which services of an ended session were told so, and which remain",
            (KEPT_FROM_THE_VISITOR, SHARED, NOT_EVICTING, NOT_FORGETTING, CURRENT),
            ("sealedstate.sso.logout", "sealedstate.sso.owner"),
        ),
        Use(
            "sessions",
            "the registry of live sessions, where it is switched on",
            (KEPT_FROM_THE_VISITOR, SHARED, NOT_EVICTING, NOT_FORGETTING, INDEXES, ENUMERABLE),
            ("sealedstate.sessions",),
        ),
    )
}


def unmet(use: Use, capabilities: Capabilities) -> tuple[Need, ...]:
    """The needs of `use` that a store does not meet."""
    return tuple(need for need in use.needs if not need.met(capabilities))


def mismatch(use: Use, store_name: str, capabilities: Capabilities) -> str | None:
    """One sentence that names the use, the need and the store; None when all needs are met.

    Where an operator can change what a store can, the sentence says what it rests on.
    """
    missing = unmet(use, capabilities)
    if not missing:
        return None
    wanted = _listed(need.wanted for need in missing)
    found = _listed(need.found for need in missing)
    reasons = [capabilities.because.get(need.capability) for need in missing]
    why = "; ".join(dict.fromkeys(reason for reason in reasons if reason))
    return f"{use.title} needs a store that {wanted}; {store_name} {found}{why and f' ({why})'}"


def store_name(store: object) -> str:
    """What a sentence calls a store: its `name`, where it has one, or else by its class."""
    name = getattr(store, "name", None)
    return name if isinstance(name, str) else type(store).__name__.removesuffix("Storage").lower()


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


# FOLD sealedstate.storage.matrix
# What each backend declares in its usual configurations, against every use.
#
# Knows capabilities as they are documented; a test holds each row against the live server that it
# speaks of. Does not know connections.


_MEBIBYTE = 1 << 20


def _server(**differences: object) -> Capabilities:
    usual: dict[str, object] = {
        "context_bytes": 1 << 12,
        "key_bytes": 1 << 12,
        "value_bytes": _MEBIBYTE,
        "shared": True,
        "durable": True,
        "survives_restart": True,
        "evicts": False,
        "enumerable": True,
    }
    return Capabilities(**usual | differences)  # type: ignore[arg-type]  # a table of fields


DECLARED: Mapping[str, Capabilities] = {
    "memory": _server(shared=False, durable=False, survives_restart=False),
    "sqlite": _server(),
    "postgresql": _server(),
    "mariadb": _server(),
    "redis, AOF always": _server(),
    # A slow fsync holds back up to two seconds of acknowledged writes in the server's memory.
    "redis, AOF everysec": _server(durable=False),
    "redis, snapshots": _server(durable=False),
    "redis, no persistence": _server(durable=False, survives_restart=False),
    "redis, evicting": _server(evicts=True),
    "memcached": _server(
        durable=False, survives_restart=False, evicts=True, enumerable=False, contexts=False
    ),
    "cookie": _server(shared=False, durable=False, evicts=True, server_side=False),
}


def as_rows(declared: Mapping[str, Capabilities]) -> Iterator[tuple[str, ...]]:
    """A table: a head, then a row for each store with yes or no for each use."""
    yield ("store", *USES)
    for name, can in declared.items():
        yield (name, *("no" if unmet(use, can) else "yes" for use in USES.values()))


def as_markdown(declared: Mapping[str, Capabilities]) -> str:
    """The same table for the documentation."""
    head, *rows = as_rows(declared)
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# FOLD sealedstate.storage.trial
# Whether a store takes writes: tried with a record and a member of an index that are our own.
#
# Knows the contract. Does not know backends, nor why one that answers may take no writes: a user
# who
# may only read, a replica, a full disk or memory.


CONTEXT = "sealedstate.check"
LIFETIME = 120
"""Seconds, after which nothing is left of a trial that broke off."""

_VALUE = b"a trial"
_Step = tuple[str, Callable[[], object], object]


def probe_writes(store: Storage, now: float, key: str) -> str | None:
    """What the store fails at, and why; None where it takes writes.

    Writes, reads, changes and deletes a record under `key`, which nobody else uses, and where the
    store has indexes, a member of one. `now` in epoch seconds.
    """
    for what, act, expected in _steps(store, millis(now + LIFETIME), key):
        try:
            found = act()
        except StorageError as error:
            return f"{what}: {error}"
        if found != expected:
            return f"{what}: the store answers, but not with what was written"
    return None


def _steps(store: Storage, expires_at: int, key: str) -> Iterator[_Step]:
    there = Stored(_VALUE, 1, expires_at)
    yield "create", lambda: store.create(CONTEXT, key, _VALUE, expires_at, 1), True
    yield "read", lambda: store.read(CONTEXT, key), there
    yield "update", lambda: store.update(CONTEXT, key, _VALUE, expires_at, 2, 1), True
    yield "delete", lambda: store.delete(CONTEXT, key, 2), True
    yield "read", lambda: store.read(CONTEXT, key), None
    if store.capabilities.indexes:
        yield "add_member", lambda: store.add_member(CONTEXT, key, "m", expires_at), None
        yield "members", lambda: store.members(CONTEXT, key), {"m": expires_at}
        yield "remove_member", lambda: store.remove_member(CONTEXT, key, "m"), True

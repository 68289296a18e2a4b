"""What each use of a store needs, and whether a store's capabilities meet it.

A mismatch is found when the application starts, and is one sentence that names the use, what it
needs and the store. `DECLARED` is what each backend declares in its usual configurations; tests
compare it with live servers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from .._forks import ForkSafeLock
from ..errors import (
    ConfigurationError,
    StorageError,
    StorageUnusable,
    escape_message,
    escape_text,
)
from .contract import FOLLOWED, Capabilities, FollowedStorage, Storage, Stored, millis
from .routing import distinct_stores, store_of

__all__ = [
    "CAVEATS",
    "DECLARED",
    "PROBE_CONTEXT",
    "USES",
    "Need",
    "StorageCheck",
    "Use",
    "as_markdown",
    "as_rows",
    "mismatch",
    "probe_writes",
    "store_name",
    "unmet_needs",
]

_log = logging.getLogger("sealedstate")


@dataclass(frozen=True, slots=True)
class Need:
    """What a use needs of one capability: its required value, and how messages say so."""

    capability: str
    required: bool | int
    requirement: str
    """Of a store that has it: "a store that ..."."""
    shortfall: str
    """Of a store that does not."""

    def is_met(self, capabilities: Capabilities) -> bool:
        return bool(getattr(capabilities, self.capability) == self.required)


SERVER_SIDE = Need(
    "server_side", True, "is out of the visitor's hands", "is in the visitor's hands"
)
SHARED = Need("shared", True, "is seen by every process", "is seen by one process only")
NOT_EVICTING = Need("evicts", False, "does not evict", "evicts")
SURVIVES_RESTART = Need(
    "survives_restart", True, "does not forget at a restart", "forgets at a restart"
)
# A part whose version is older than the cookie says counts as lost, and an older watermark would
# let a session in that was signed out.
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
CHANGES = Need("changes", True, "says what has changed", "does not say what has changed")


@dataclass(frozen=True, slots=True)
class Use:
    """Something that sealedstate does with a store.

    `contexts`: where it keeps its records. `lasting`: whether they outlive the keys that seal
    sessions.
    """

    name: str
    purpose: str
    needs: tuple[Need, ...]
    contexts: tuple[str, ...] = ()
    lasting: bool = False


USES: Mapping[str, Use] = {
    use.name: use
    for use in (
        Use(
            "spilling",
            "parts of a session that fit into no cookie",
            (SERVER_SIDE, CURRENT),
            ("sealedstate.part",),
        ),
        Use(
            "revocation",
            "sessions that were logged out, until they would have expired",
            (SERVER_SIDE, SHARED, NOT_EVICTING, SURVIVES_RESTART, CURRENT),
            ("sealedstate.revoked", "sealedstate.watermark"),
        ),
        Use(
            "feed",
            'those sessions in the memory of each process, where revocation = "feed"',
            (SERVER_SIDE, SHARED, NOT_EVICTING, SURVIVES_RESTART, CURRENT, CHANGES),
            ("sealedstate.revoked", "sealedstate.watermark"),
        ),
        Use(
            "ring",
            'the keys of all nodes, where keys = "store:"',
            (SERVER_SIDE, SHARED, NOT_EVICTING, SURVIVES_RESTART, CURRENT, DURABLE),
            ("sealedstate.ring",),
        ),
        Use(
            "replay",
            "messages that were seen, so that none counts twice",
            (SERVER_SIDE, SHARED, NOT_EVICTING, SURVIVES_RESTART),
            ("sealedstate.sso.replay",),
        ),
        Use(
            "binding",
            "challenges that a browser has signed, so that none counts twice",
            (SERVER_SIDE, SHARED, NOT_EVICTING),
            ("sealedstate.binding",),
        ),
        Use(
            "artifacts",
            "one-time values that exactly one caller gets",
            (SERVER_SIDE, SHARED),
            ("sealedstate.sso.artifact",),
        ),
        Use(
            "consent",
            "what a user agreed to, kept for years",
            (SERVER_SIDE, SHARED, NOT_EVICTING, SURVIVES_RESTART, DURABLE, ENUMERABLE),
            ("sealedstate.sso.consent",),
            lasting=True,
        ),
        Use(
            "logins",
            "the index that leads from a service's logout request to sessions",
            (SERVER_SIDE, SHARED, NOT_EVICTING, SURVIVES_RESTART, INDEXES),
            ("sealedstate.sso.index",),
        ),
        Use(
            "logout",
            "which services of an ended session were notified, and which remain",
            (SERVER_SIDE, SHARED, NOT_EVICTING, SURVIVES_RESTART, CURRENT),
            ("sealedstate.sso.logout", "sealedstate.sso.owner"),
        ),
        Use(
            "sessions",
            "the registry of live sessions, where it is switched on",
            (SERVER_SIDE, SHARED, NOT_EVICTING, SURVIVES_RESTART, INDEXES, ENUMERABLE),
            ("sealedstate.sessions",),
        ),
    )
}


def unmet_needs(use: Use, capabilities: Capabilities) -> tuple[Need, ...]:
    """Return the needs of `use` that a store does not meet."""
    return tuple(need for need in use.needs if not need.is_met(capabilities))


def mismatch(use: Use, store_name: str, capabilities: Capabilities) -> str | None:
    """Return one sentence that names the use, what it needs and the store; None if it fits.

    The sentence includes the settings of the server that the missing capabilities depend on.
    """
    needs = unmet_needs(use, capabilities)
    if not needs:
        return None
    requirements = _join(need.requirement for need in needs)
    shortfalls = _join(need.shortfall for need in needs)
    reasons = [capabilities.reasons.get(need.capability) for need in needs]
    why = "; ".join(dict.fromkeys(reason for reason in reasons if reason))
    return (
        f"{use.name} needs a store that {requirements};"
        f" {store_name} {shortfalls}{why and f' ({why})'}"
    )


def store_name(store: object) -> str:
    """Return a store's name in messages: its `name`, or else its class's without "Storage"."""
    name = getattr(store, "name", None)
    return name if isinstance(name, str) else type(store).__name__.removesuffix("Storage").lower()


def _join(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


# --- the check of the configured stores ---------------------------------------------------------


class StorageCheck:
    """Checks the stores that the contexts of `uses` are sent to by `storage`.

    `uses`, `tolerated`: names of `USES`; a tolerated use may fall short, which is logged.

    A server that does not answer at the start does not stop the application: its capabilities are
    not known yet, and assumed ones are no reason to refuse it. It is checked once it has answered.
    Requests are being served by then, so it stays in use: refusing it would sign out all visitors
    because of something that may never happen. The log has an error, and the next start is refused.
    """

    def __init__(self, storage: Storage, uses: Collection[str], tolerated: Collection[str]) -> None:
        self._tolerated = tolerated
        self._pairs: list[tuple[Use, Storage]] = []
        for name in uses:
            contexts = USES[name].contexts
            stores = distinct_stores([store_of(context, storage) for context in contexts])
            self._pairs += [(USES[name], store) for store in stores]
        # By pair, the capabilities that were checked last: a server may return with another
        # configuration.
        self._checked: list[Capabilities | None] = [None] * len(self._pairs)
        self._lock = ForkSafeLock()
        # Whether every store has answered a check.
        self.has_answered = False

    def check(self) -> None:
        """Ping each store once, and check those that answer.

        Raises ConfigurationError with a sentence for each use whose needs are not met, and
        StorageUnusable for a store that cannot be used as it is.
        """
        self.has_answered = True
        for store in distinct_stores([store for _, store in self._pairs]):
            try:
                store.ping()
            except StorageUnusable:
                raise
            except StorageError as error:
                self.has_answered = False
                _log.warning(
                    "the %s store does not answer at the start and will be checked once it does:"
                    " %s",
                    escape_text(store_name(store)),
                    escape_message(error),
                )
        problems = {use.name: sentence for use, sentence in self._find_mismatches()}
        if problems:
            names = ", ".join(f'"{name}"' for name in problems)
            raise ConfigurationError(
                f"storage: {'. '.join(problems.values())}."
                f" Use another store, or accept what may happen: accept_weak_store_for=[{names}]"
            )

    def recheck(self) -> None:
        """After a store has answered, check it if it was not known before or has changed.

        Costs next to nothing otherwise. Of several threads, one does it.
        """
        has_news = any(
            store.capabilities is not before and store.capabilities != before
            for (_, store), before in zip(self._pairs, self._checked, strict=True)
        )
        if not has_news or not self._lock.acquire(blocking=False):
            return
        try:
            for _, sentence in self._find_mismatches():
                _log.error("storage: %s; the next start is refused", escape_message(sentence))
        finally:
            self._lock.release()

    def _find_mismatches(self) -> Iterator[tuple[Use, str]]:
        """Yield what is wrong with the stores that are known, once for each state of them.

        What is tolerated is logged instead.
        """
        for number, (use, store) in enumerate(self._pairs):
            capabilities = store.capabilities
            if capabilities.assumed or capabilities == self._checked[number]:
                continue
            self._checked[number] = capabilities
            sentence = mismatch(use, store_name(store), capabilities)
            if sentence is not None and use.name in self._tolerated:
                _log.warning("tolerated: %s", escape_message(sentence))
            elif sentence is not None:
                yield use, sentence


# --- what each backend declares -----------------------------------------------------------------

_USUAL = Capabilities(
    context_bytes=1 << 12,
    key_bytes=1 << 12,
    value_bytes=1 << 20,
    shared=True,
    durable=True,
    survives_restart=True,
    evicts=False,
    enumerable=True,
    changes=True,
)

# A new store is added here, to `urls.URLS`, to the tables of docs/choosing-a-store.md,
# docs/stores.md, docs/sso.md, and to tests/support/backends.py. Its name is that of its class
# without "Storage".
DECLARED: Mapping[str, Capabilities] = {
    "memory": replace(_USUAL, shared=False, durable=False, survives_restart=False),
    "sqlite": _USUAL,
    "postgresql": _USUAL,
    # As the releases since 10.11.9 are; before, it was durable.
    "mariadb": replace(_USUAL, durable=False),
    "redis, AOF always": _USUAL,
    # During a slow fsync the server keeps up to two seconds of acknowledged writes in memory.
    "redis, AOF everysec": replace(_USUAL, durable=False),
    "redis, snapshots": replace(_USUAL, durable=False),
    "redis, no persistence": replace(_USUAL, durable=False, survives_restart=False),
    "redis, evicting": replace(_USUAL, evicts=True),
    "memcached": replace(
        _USUAL,
        durable=False,
        survives_restart=False,
        evicts=True,
        enumerable=False,
        contexts=False,
        changes=False,
    ),
    "dynamodb": replace(_USUAL, value_bytes=400_000, native_expiry=True, changes=False),
    "cookie": replace(
        _USUAL, shared=False, durable=False, evicts=True, server_side=False, changes=False
    ),
}

# What a table of yes and no does not say, by store.
CAVEATS: Mapping[str, str] = {
    "mariadb": "from 10.11.9 on, kill -9 under load may take acknowledged writes back whatever the"
    " settings; older releases hold a ring and consents, too; see docs/stores.md",
    "dynamodb": "experimental; assumed of AWS, as an emulator cannot show it, see docs/stores.md",
}


def as_rows(declared: Mapping[str, Capabilities]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a table: a header, then for each store yes or no for each use."""
    yield ("store", *USES)
    for name, can in declared.items():
        yield (name, *("no" if unmet_needs(use, can) else "yes" for use in USES.values()))


def as_markdown(declared: Mapping[str, Capabilities]) -> str:
    """Return the same table in Markdown."""
    header, *rows = as_rows(declared)
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- does it take writes? -----------------------------------------------------------------------

PROBE_CONTEXT = "sealedstate.check"
PROBE_SECONDS = 120
"""After this time, nothing is left of a probe that was interrupted."""


def probe_writes(store: Storage, now: float, key: str, contexts: Iterable[str] = ()) -> str | None:
    """Return which operation fails and why, or None if the store takes writes.

    Writes, reads, changes and deletes a record under `key`, which no other caller may use, in a
    context for this and in those of `contexts`, and if the store has indexes, a member. `now` in
    epoch seconds.
    """
    value, expires_at = b"a trial", millis(now + PROBE_SECONDS)
    steps: list[tuple[str, Callable[[], object], object]] = []
    for context in (PROBE_CONTEXT, *contexts):
        at = "" if context == PROBE_CONTEXT else f" in {context}"
        read = partial(store.read, context, key)
        steps += [
            (f"create{at}", partial(store.create, context, key, value, expires_at, 1), True),
            (f"read{at}", read, Stored(value, 1, expires_at)),
            (f"update{at}", partial(store.update, context, key, value, expires_at, 2, 1), True),
            (f"delete{at}", partial(store.delete, context, key, 2), True),
            (f"read{at}", read, None),
        ]
    context, can = PROBE_CONTEXT, store.capabilities
    if can.indexes:
        steps += [
            ("add_member", lambda: store.add_member(context, key, "m", expires_at), None),
            ("members", lambda: store.members(context, key), {"m": expires_at}),
            ("remove_member", lambda: store.remove_member(context, key, "m"), True),
        ]
    if can.enumerable:
        steps.append(("keys", lambda: list(store.keys(context, key)), []))
    if can.changes and not FOLLOWED.isdisjoint(contexts):
        followed = cast(FollowedStorage, store)
        steps.append(("changes", lambda: followed.changes(None, 1).starts_over, True))
    for operation, act, expected in steps:
        try:
            answer = act()
        except StorageError as error:
            return f"{operation}: {error}"
        if answer != expected:
            return f"{operation}: the store answers, but not with what was written"
    return None

"""What each use needs of a store, and whether a store's capabilities meet it.

Knows uses, capabilities and sentences. Does not know any backend: it is told capabilities.

A mismatch is found when the application starts, not at three in the morning, and is one sentence
that names the use, the need and the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .contract import Capabilities


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that a use needs: how it is said, and when it is met."""

    name: str
    wanted: str
    found: str
    met: Callable[[Capabilities], bool]


KEPT_FROM_THE_VISITOR = Need(
    "server side",
    "is out of the visitor's hands",
    "is in the visitor's hands",
    lambda can: can.server_side,
)
SHARED = Need("shared", "every process sees", "only one process sees", lambda can: can.shared)
NOT_EVICTING = Need("keeps", "does not evict", "evicts", lambda can: not can.evicts)
NOT_FORGETTING = Need(
    "survives a restart",
    "does not forget at a restart",
    "forgets at a restart",
    lambda can: can.survives_restart,
)
DURABLE = Need(
    "survives a crash",
    "loses no acknowledged write in a crash",
    "loses acknowledged writes in a crash",
    lambda can: can.durable,
)
INDEXES = Need("indexes", "has indexes", "has no indexes", lambda can: can.indexes)


@dataclass(frozen=True, slots=True)
class Use:
    """Something that sealedstate does with a store. `title` is how a sentence calls it."""

    title: str
    purpose: str
    needs: tuple[Need, ...]


USES: Mapping[str, Use] = {
    use.title: use
    for use in (
        Use(
            "spilling",
            "parts of a session that fit into no cookie",
            (KEPT_FROM_THE_VISITOR,),
        ),
        Use(
            "revocation",
            "sessions that were logged out, until they would have expired",
            (KEPT_FROM_THE_VISITOR, SHARED, NOT_EVICTING, NOT_FORGETTING),
        ),
        Use(
            "replay",
            "messages that were seen, so that none counts twice",
            (KEPT_FROM_THE_VISITOR, SHARED, NOT_EVICTING, NOT_FORGETTING),
        ),
        Use(
            "artifacts",
            "one-time values that exactly one asker gets",
            (KEPT_FROM_THE_VISITOR, SHARED),
        ),
        Use(
            "consent",
            "what a user agreed to, kept for years",
            (KEPT_FROM_THE_VISITOR, SHARED, NOT_EVICTING, NOT_FORGETTING, DURABLE),
        ),
        Use(
            "logins",
            "the index that leads from a service's logout request to sessions",
            (KEPT_FROM_THE_VISITOR, SHARED, NOT_EVICTING, NOT_FORGETTING, INDEXES),
        ),
    )
}


def unmet(use: Use, capabilities: Capabilities) -> tuple[Need, ...]:
    """The needs of `use` that a store does not meet."""
    return tuple(need for need in use.needs if not need.met(capabilities))


def mismatch(use: Use, store_name: str, capabilities: Capabilities) -> str | None:
    """One sentence that names the use, the need and the store; None when all needs are met."""
    missing = unmet(use, capabilities)
    if not missing:
        return None
    wanted = _listed(need.wanted for need in missing)
    found = _listed(need.found for need in missing)
    return f"{use.title} needs a store that {wanted}; {store_name} {found}"


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last

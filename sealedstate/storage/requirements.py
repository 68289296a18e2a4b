"""What each use needs of a store, and whether a store's capabilities meet it.

Knows uses, capabilities and sentences. Does not know any backend: it is told capabilities.

A mismatch is found when the application starts, not at three in the morning, and is one sentence
that names the use, the need and the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .contract import Capabilities


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

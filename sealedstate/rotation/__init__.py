"""Keys that rotate by themselves: the ring document, and how one becomes the next.

Knows rings, time and random bytes as arguments. Does not know files, stores or clocks: where a ring
is kept is `key_sources`.
"""

from __future__ import annotations

from .document import RingUnreadable, dump_ring, parse_ring
from .ring import (
    DEFAULT_RELOAD_EVERY,
    DEFAULT_ROTATE_EVERY,
    Ring,
    RingKey,
    RingReplaced,
    RingStorage,
    Schedule,
    Tombstone,
    minimum_announce,
)
from .transitions import (
    disabled,
    enabled,
    founded,
    is_due,
    lasting_destroyed,
    lasting_replaced,
    lasting_rotated,
    revoked,
    revoked_before,
    rotated,
)

__all__ = [
    "DEFAULT_RELOAD_EVERY",
    "DEFAULT_ROTATE_EVERY",
    "Ring",
    "RingKey",
    "RingReplaced",
    "RingStorage",
    "RingUnreadable",
    "Schedule",
    "Tombstone",
    "disabled",
    "dump_ring",
    "enabled",
    "founded",
    "is_due",
    "lasting_destroyed",
    "lasting_replaced",
    "lasting_rotated",
    "minimum_announce",
    "parse_ring",
    "revoked",
    "revoked_before",
    "rotated",
]

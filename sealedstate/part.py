"""One part of a session during a request: where it lives, what it was and what it is now.

Knows places and encoded bytes. Does not know how a value is encoded, nor its session.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .record import Place

_SCALARS = frozenset({type(None), bool, int, float, str, bytes})


class _Unread:
    """Stands for a value that nobody has looked at."""


UNREAD = _Unread()


@dataclass(slots=True)
class Part:
    """One part of a session during a request.

    `saved` is its encoding as it arrived, `encoded` as it stands now; None means not recalled, or
    for `saved` also: not there before. `version` is the one in the store.
    """

    place: Place | None = None
    version: int | None = None
    saved: bytes | None = field(default=None, repr=False)
    encoded: bytes | None = field(default=None, repr=False)
    value: object = field(default=UNREAD, repr=False)
    replaced: bool = False

    @property
    def changed(self) -> bool:
        """Whether saving it would write something else than what arrived."""
        return self.replaced if self.saved is None else self.encoded != self.saved

    @property
    def is_in_core(self) -> bool:
        """Whether it lives in the core or nowhere yet, and has left nothing in the store."""
        return self.version is None and (self.place is None or self.place is Place.CORE)

    @property
    def may_have_changed(self) -> bool:
        """Whether its value was looked at and can change without being assigned."""
        return self.value is not UNREAD and type(self.value) not in _SCALARS


@dataclass(frozen=True, slots=True)
class PartView:
    """Where a part of an arrived session lives, and its encoded size where that is known."""

    name: str
    place: Place | None
    value_bytes: int | None

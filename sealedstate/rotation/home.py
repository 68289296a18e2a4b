"""Where a ring is kept: what a file and a store have in common.

Knows the shape, and nothing of either.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ..errors import OperatorError
from .ring import Ring


class DisplacedRing(OperatorError):
    """What is there is not the ring that was there last, but `ring`: an older copy, or another."""

    def __init__(self, message: str, ring: Ring) -> None:
        super().__init__(message)
        self.ring = ring


@runtime_checkable
class RingHome(Protocol):
    """One place that holds at most one ring.

    Every method may raise OperatorError: the place can't be reached, or what is there is no ring of
    ours (RingUnreadable), or not the one that the place remembers (DisplacedRing). Nothing that it
    raises or says holds a secret.
    """

    @property
    def where(self) -> str:
        """What an operator calls this place."""
        ...

    def load(self) -> Ring | None:
        """The ring that is there; None where there is none."""
        ...

    def write(self, ring: Ring, after: Ring | None) -> bool:
        """Put `ring` in the place of `after`, or (None) where there is none, as one step. A place
        that remembers which ring was there puts it over what has become of it, too.

        False when another ring is there by now. Once True is returned, no crash loses it.
        """
        ...

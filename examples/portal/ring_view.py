"""What can be told about the key ring: which key seals, which comes next, which still open.

Knows rings and times. Does not know HTML or sessions, nor where the ring is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from sealedstate import KeyState
from sealedstate.rotation.ring import Ring, RingKey, Schedule


@dataclass(frozen=True, slots=True)
class KeyView:
    """One key. Times are epoch seconds; None where no key is announced that would take over."""

    kid: str
    state: KeyState
    seals_from: int
    seals_until: int | None
    opens_until: int | None


@dataclass(frozen=True, slots=True)
class RingView:
    """The ring as it is `now` (epoch seconds): its keys that have not expired, the newest first."""

    now: int
    keys: tuple[KeyView, ...]
    schedule: Schedule

    @property
    def primary(self) -> KeyView | None:
        """The key that seals."""
        return next(iter(self.of(KeyState.PRIMARY)), None)

    @property
    def pending(self) -> KeyView | None:
        """The key whose turn comes next, once it is announced."""
        return next(reversed(self.of(KeyState.PENDING)), None)

    @property
    def announced_at(self) -> int | None:
        """When the next key will be announced, while none is."""
        if self.primary is None or self.pending is not None:
            return None
        return self.primary.seals_from + self.schedule.rotate_every - self.schedule.announce

    def of(self, state: KeyState) -> list[KeyView]:
        """The keys in that state."""
        return [key for key in self.keys if key.state is state]

    def find(self, kid: str) -> KeyView | None:
        """The key with that id."""
        return next((key for key in self.keys if key.kid == kid), None)


def ring_view(ring: Ring, now: int) -> RingView:
    """What there is to see of `ring` at `now`."""
    keyring = ring.keyring()
    states = {key.kid: keyring.state(key, now) for key in keyring.keys}
    keys = tuple(_key_view(ring, key, states[key.kid]) for key in ring.keys)
    return RingView(
        now, tuple(key for key in keys if key.state is not KeyState.EXPIRED), ring.schedule
    )


def _key_view(ring: Ring, key: RingKey, state: KeyState) -> KeyView:
    return KeyView(
        key.kid.hex(), state, key.activates_at, ring.retires_at(key), ring.expires_at(key)
    )

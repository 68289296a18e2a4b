"""What the pages show of the key ring: which key seals, which comes next, which still open."""

from __future__ import annotations

from dataclasses import dataclass

from sealedstate.keyring import KeyState
from sealedstate.rotation.ring import Ring, Schedule


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
        return next(iter(self.in_state(KeyState.PRIMARY)), None)

    @property
    def pending(self) -> KeyView | None:
        """The key whose turn comes next, once it is announced."""
        return next(reversed(self.in_state(KeyState.PENDING)), None)

    @property
    def retired(self) -> list[KeyView]:
        """The keys that no longer seal and still open."""
        return self.in_state(KeyState.RETIRED)

    @property
    def announced_at(self) -> int | None:
        """When the next key will be announced, while none is."""
        if self.primary is None or self.pending is not None:
            return None
        return self.primary.seals_from + self.schedule.rotate_every - self.schedule.announce

    def in_state(self, state: KeyState) -> list[KeyView]:
        """The keys in that state."""
        return [key for key in self.keys if key.state is state]

    def find(self, kid: str | None) -> KeyView | None:
        """The key with that id."""
        return next((key for key in self.keys if key.kid == kid), None)


def view_ring(ring: Ring, now: int) -> RingView:
    """What there is to see of `ring` at `now`."""
    keyring = ring.keyring()
    states = {key.kid: keyring.state(key, now) for key in keyring.keys}
    keys = tuple(
        KeyView(
            key.kid.hex(),
            states[key.kid],
            key.activates_at,
            ring.retires_at(key),
            ring.expires_at(key),
        )
        for key in ring.keys
        if states[key.kid] is not KeyState.EXPIRED
    )
    return RingView(now, keys, ring.schedule)

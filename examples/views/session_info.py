"""What can be told about a session as it arrived with a request: sizes, places, times.

Stands in for `Keeper.info` until that is there: the same fields, made from private modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sealedstate import Keeper, Session
from sealedstate._request.load import LoadedSession
from sealedstate._wire.record import Policy
from sealedstate.profiles import FLOOR_BYTES


@dataclass(frozen=True, slots=True)
class PartInfo:
    """One part: where it lives, where it may live, its encoded size where that is known."""

    place: str | None
    policy: str
    bytes: int | None

    @property
    def cookie_bytes(self) -> int:
        """Its share of the cookies, as base64 makes it."""
        return 0 if self.place == "spilled" or self.bytes is None else round(self.bytes * 4 / 3)


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """Sizes, places and times of a session. Sizes in bytes, times in epoch seconds."""

    parts: Mapping[str, PartInfo]
    cookies: Mapping[str, int]
    foreign_bytes: int
    room_bytes: int
    created_at: int | None = None
    sealed_at: int | None = None
    idle_expires_at: int | None = None
    expires_at: int | None = None
    kid: str | None = None
    generation: int | None = None


def info(keeper: Keeper, session: Session) -> SessionInfo:
    """What `keeper` knows of `session`, without asking the store."""
    _ = session.subject
    visit, deployment = session.visit, keeper.deployment
    if not isinstance(visit, LoadedSession):
        raise TypeError("the session is not of a keeper")
    record, opened, found = visit.record, visit.opened, visit.candidates
    for name in record.overflow.names if record and record.overflow else ():
        session.fetch(name)  # it came with the cookies
    parts = {
        view.name: PartInfo(
            None if view.place is None else view.place.value,
            deployment.policies.get(view.name, Policy.AUTO).value,
            view.value_bytes,
        )
        for view in session.layout()
    }
    family = deployment.cookies
    values = {family.name: found.core}
    values |= {family.chunk_name(number): texts for number, texts in sorted(found.overflow.items())}
    cookies = {name: len(name) + 1 + len(text) for name, texts in values.items() for text in texts}
    profile, ours = deployment.profile, sum(cookies.values())
    beside = max(profile.header_bytes - found.foreign_bytes, FLOOR_BYTES)
    room = max(ours, min(profile.total_bytes, beside))
    if opened is None:
        return SessionInfo(parts, cookies, found.foreign_bytes, room)
    expires_at = opened.record.expires_at
    return SessionInfo(
        parts,
        cookies,
        found.foreign_bytes,
        room,
        opened.record.created_at,
        opened.sealed_at,
        min(opened.sealed_at + keeper.settings.idle_lifetime, expires_at),
        expires_at,
        opened.key.kid.hex(),
        opened.record.generation,
    )

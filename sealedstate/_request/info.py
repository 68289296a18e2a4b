"""Sizes, places, ages and key of a session, for pages that show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .._wire.record import Place, Policy
from ..deployment import Deployment
from ..profiles import FLOOR_BYTES
from ..session import Part, Session
from .load import LoadedSession


@dataclass(frozen=True, slots=True)
class PartInfo:
    """One part of a session.

    `place`: ``"core"`` (the first cookie), ``"overflow"`` (further cookies), ``"spilled"`` (the
    store), or None before its first save. `value_bytes`: size of its encoded value; None for a
    spilled part that was not read. `cookie_bytes`: its share of the cookies. `policy`: where it may
    be, ``"cookie"``, ``"server"`` or ``"auto"``.
    """

    place: str | None
    value_bytes: int | None
    cookie_bytes: int
    policy: str


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What a request says of its session. Sizes in bytes, times in epoch seconds.

    `parts`: by name, also those that were only assigned. `cookie_bytes`: name, ``=`` and value of
    each of the session's cookies in the request, by name. `foreign_bytes`: other cookies.
    `room_bytes`: what the session's cookies may take beside them. `created_at`, `sealed_at`,
    `idle_expires_at`, `expires_at`, `kid` (8 hex digits) and `generation` (saves since the sign-in)
    are None for a session that the request did not bring.
    """

    parts: Mapping[str, PartInfo]
    cookie_bytes: Mapping[str, int]
    foreign_bytes: int
    room_bytes: int
    created_at: int | None = None
    sealed_at: int | None = None
    idle_expires_at: int | None = None
    expires_at: int | None = None
    kid: str | None = None
    generation: int | None = None


def describe_session(deployment: Deployment, session: Session) -> SessionInfo:
    """The facts about a session. Decodes overflow, but never asks the store."""
    loaded, changes = session.load(), session.changes()
    if not isinstance(loaded, LoadedSession):
        raise TypeError("session: expected a session of this keeper")
    candidates, cookies, profile = loaded.candidates, deployment.cookies, deployment.profile
    parts = {}
    for name, part in changes.parts.items():
        if not isinstance(part, Part):
            part = Part(Place.CORE, None, part, part)
        size = None if part.encoded is None else len(part.encoded)
        if size is None and part.place is Place.OVERFLOW:
            data = loaded.recall(name)
            size = None if data is None else len(data)
        in_cookies = 0 if part.place is Place.SPILLED else round((size or 0) * 4 / 3)
        place = None if part.place is None else part.place.value
        policy = deployment.policies.get(name, Policy.AUTO).value
        parts[name] = PartInfo(place, size, in_cookies, policy)
    values = {cookies.name: candidates.core[:1]}
    values |= {cookies.chunk_name(number): texts for number, texts in candidates.overflow.items()}
    sizes = {name: len(name) + 1 + len(texts[0]) for name, texts in values.items() if texts}
    left = max(profile.header_bytes - candidates.foreign_bytes, FLOOR_BYTES)
    room = max(candidates.our_bytes, min(profile.total_bytes, left))
    opened = loaded.opened
    if opened is None:
        return SessionInfo(parts, sizes, candidates.foreign_bytes, room)
    record = opened.record
    return SessionInfo(
        parts,
        sizes,
        candidates.foreign_bytes,
        room,
        record.created_at,
        opened.sealed_at,
        min(opened.sealed_at + deployment.lifetimes.idle, record.expires_at),
        record.expires_at,
        opened.key.kid.hex(),
        record.generation,
    )

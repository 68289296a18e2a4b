"""What can be told about a session as it arrived with a request: sizes, places, times.

Knows the keeper's visit and arithmetic. Does not know HTML. Recalls nothing from the store: what
was spilled shows its size only if somebody has read it in this request.
"""

from __future__ import annotations

from dataclasses import dataclass

from sealedstate import Keeper, Profile, Session
from sealedstate._cookies.codec import OpenedRecord
from sealedstate._cookies.header import Candidates
from sealedstate._request.load import LoadedSession
from sealedstate._wire.record import Place, Policy, Record
from sealedstate.profiles import FLOOR_BYTES


@dataclass(frozen=True, slots=True)
class PartFacts:
    """One part: where it lives, where it may live, its encoded size where that is known."""

    name: str
    place: Place
    policy: Policy
    value_bytes: int | None

    @property
    def cookie_bytes(self) -> int:
        """Its share of the cookies, as base64 makes it."""
        if self.place is Place.SPILLED or self.value_bytes is None:
            return 0
        return round(self.value_bytes * 4 / 3)


@dataclass(frozen=True, slots=True)
class Load:
    """What the browser carries: our cookies (name, '=' and value of each), and others'."""

    cookies: tuple[tuple[str, int], ...]
    foreign: int
    header: int

    @property
    def ours(self) -> int:
        return sum(size for _, size in self.cookies)


@dataclass(frozen=True, slots=True)
class Times:
    """When things happened and end, in epoch seconds."""

    now: int
    began: int
    sealed: int
    idle_end: int
    absolute_end: int


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the overview shows of a session that has arrived."""

    session_id: str
    subject: str
    generation: int
    kid: str
    load: Load
    parts: tuple[PartFacts, ...]
    times: Times

    @property
    def overhead(self) -> int:
        """What our cookies carry besides the parts' values."""
        return max(0, self.load.ours - sum(part.cookie_bytes for part in self.parts))

    def part(self, name: str) -> PartFacts | None:
        """The part of that name, if the session has it."""
        return next((part for part in self.parts if part.name == name), None)


def facts_of(session: Session, keeper: Keeper, cookie_header: str, now: int) -> Facts | None:
    """The facts of a signed-in session that arrived with this request; None for any other."""
    visit, subject = session.load(), session.subject
    if not isinstance(visit, LoadedSession) or visit.opened is None or subject is None:
        return None
    opened, settings = visit.opened, keeper.settings
    return Facts(
        session.id,
        subject,
        opened.record.generation,
        opened.key.kid.hex(),
        _load(visit.candidates, keeper, len(cookie_header)),
        _parts(session, opened.record, keeper),
        _times(opened, settings.idle_lifetime, now),
    )


def room_beside(profile: Profile, foreign: int, ours: int) -> int:
    """The bytes that `foreign` ones leave to our cookies, which have `ours` already."""
    beside = max(profile.header_bytes - foreign, FLOOR_BYTES)
    return max(ours, min(profile.total_bytes, beside))


def _load(found: Candidates, keeper: Keeper, header: int) -> Load:
    family = keeper.deployment.cookies
    values = {family.name: found.core}
    values |= {family.chunk_name(number): texts for number, texts in sorted(found.overflow.items())}
    cookies = tuple(
        (name, len(name) + 1 + len(text)) for name, texts in values.items() for text in texts
    )
    return Load(cookies, found.foreign_bytes, header)


def _parts(session: Session, record: Record, keeper: Keeper) -> tuple[PartFacts, ...]:
    for name in record.overflow.names if record.overflow else ():
        session.get(name)  # it came with the cookies: nobody has to be asked
    policies = keeper.deployment.policies
    return tuple(
        PartFacts(name, Place(part.place), policies.get(name, Policy.AUTO), part.value_bytes)
        for name, part in keeper.info(session).parts.items()
        if part.place is not None
    )


def _times(opened: OpenedRecord, idle: int, now: int) -> Times:
    record = opened.record
    idle_end = min(opened.sealed_at + idle, record.expires_at)
    return Times(now, record.created_at, opened.sealed_at, idle_end, record.expires_at)

"""What stood in a session that was logged out, read from its cookies once more: never a session.

Knows the order of checks of `visit`, and turns its last one round: what it gives is authentic, not
expired, and refused by a revocation. Does not know who asks, gives no session and writes nothing.

A logout that came without the user's cookie could not read what stands only in there, such as the
services that the user went to. Whoever still has to tell them reads it here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from . import codec
from .errors import MalformedRecord, ReplacedSession, RevokedSession, UnreadableError
from .record import Record
from .revocation import Ending
from .session import Session
from .spilling import Row
from .toolkit import Toolkit
from .visit import RequestVisit


@dataclass(frozen=True, slots=True)
class EndedRecord:
    """A session that was ended: its id (16 bytes), its subject, and some of its parts.

    A part is missing that was not there, or that the store no longer has; `torn` are those whose
    cookies did not all come. `from_outside`: it was not ended in a request of its own, but by
    its id or with all sessions of its subject.
    """

    id: bytes = field(repr=False)
    subject: str | None = field(repr=False)
    parts: Mapping[str, object] = field(repr=False)
    torn: frozenset[str]
    from_outside: bool


def ended_record(toolkit: Toolkit, session: Session, names: Collection[str]) -> EndedRecord | None:
    """What the cookies of this request say of a session that was logged out; its parts `names`.

    None when they open a session, when they open none for any other reason, when the session goes
    on under a new id, and without a store. Raises StorageError.
    """
    visit, revocations = session.visit, toolkit.revocations
    if session.subject is not None or session.withheld is not None or revocations is None:
        return None
    if not isinstance(visit, RequestVisit) or visit.record is not None:
        return None
    now = toolkit.now()
    for record in _unexpired(toolkit, visit, int(now)):
        try:
            revocations.check(record, now)
        except RevokedSession:
            ending = revocations.ending(record.id, now)
            if ending is not Ending.REPLACED:
                parts = _parts(toolkit, visit, record, names)
                listed = record.overflow.names if record.overflow else ()
                torn = frozenset(name for name in listed if name in names and name not in parts)
                return EndedRecord(
                    record.id, record.subject, parts, torn, ending is not Ending.LOGGED_OUT
                )
        except ReplacedSession:
            continue
    return None


def _unexpired(toolkit: Toolkit, visit: RequestVisit, now: int) -> Iterator[Record]:
    settings = toolkit.settings
    try:
        opened = toolkit.tokens.open_core(visit.candidates, now)
    except UnreadableError:
        return
    for each in opened:
        try:
            each.record.check_times(each.sealed_at, now, settings.lifetimes, settings.skew)
        except UnreadableError:
            continue
        yield each.record


def _parts(
    toolkit: Toolkit, visit: RequestVisit, record: Record, names: Collection[str]
) -> dict[str, object]:
    found = {name: _encoded(toolkit, visit, record, name) for name in names}
    values: dict[str, object] = {}
    for name, data in found.items():
        try:
            if data is not None:
                values[name] = codec.decode(data)
        except MalformedRecord:
            toolkit.note("part-unreadable")
    return values


def _encoded(toolkit: Toolkit, visit: RequestVisit, record: Record, name: str) -> bytes | None:
    if name in record.parts:
        return record.parts[name]
    if name in record.spilled:
        return recalled(toolkit, record.id, name, record.spilled[name])
    overflow = toolkit.tokens.open_overflow(record, visit.candidates, int(toolkit.now()))
    return (overflow or {}).get(name)


def recalled(toolkit: Toolkit, session_id: bytes, name: str, known: int = 0) -> bytes | None:
    """The encoded value of a stored part, at least of the version `known`. Raises StorageError."""
    if toolkit.spiller is None:
        return None
    ring, now = toolkit.tokens.keyring(), toolkit.now()
    found = toolkit.spiller.recall(Row(session_id, name), known, ring, now)
    return None if found is None else found.data

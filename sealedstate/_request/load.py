"""What stood in a session that was logged out, read from its cookies once more: never a session.

Knows the order of checks of `visit`, and turns its last one round: what it gives is authentic, not
expired, and refused by a revocation. Does not know who asks, gives no session and writes nothing.

A logout that came without the user's cookie could not read what stands only in there, such as the
services that the user went to. Whoever still has to tell them reads it here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from .._cookies.codec import OpenedRecord
from .._cookies.header import Candidates
from .._stored.revocations import Ending
from .._wire import cbor as codec
from .._wire.record import ID_BYTES, NO_ROWS, Record, check_name
from ..deployment import Deployment, log
from ..errors import (
    AmbiguousSession,
    MalformedRecord,
    ReplacedSession,
    RevokedSession,
    SessionWithheld,
    StorageError,
    UncheckedSession,
    UnreadableError,
    UnreadablePart,
    UnsupportedValue,
)
from ..session import LoadResult, Session

# FOLD sealedstate.visit
# What one request brings, opened when its session is looked at.
#
# Knows the Cookie header, and asks tokens, lifetimes and revocations in that order. Does not
# know how
# a session is saved. One outcome for anything unreadable: no session; the reason goes to the
# journal.


class LoadedSession:
    """One request, as its session sees it."""

    # How it begins: a request that nobody asks for its session does no more than keep its header.
    # The keeper sets these two.
    toolkit: Deployment
    header: str
    candidates = Candidates()
    # Versions in the store, where a recall has found another one than the manifest says.
    versions: Mapping[str, int] = NO_ROWS
    # What arrived, if anything, and as it was sealed.
    record: Record | None = None
    opened: OpenedRecord | None = None
    withheld: str | None = None
    adopted: Record | None = None
    # Whether its revocation is recorded already, by its id.
    revoked = False
    _overflow: dict[str, bytes] | None = None

    @property
    def has_old_cookie(self) -> bool:
        """Whether the request carries a cookie that the legacy reader looks for."""
        reader = self.toolkit.settings.legacy
        return reader is not None and reader.find(self.header) is not None

    # --- what a session asks --------------------------------------------------------------------

    def arrive(self) -> Record | LoadResult:
        tools = self.toolkit
        candidates = self.candidates = tools.cookies.find(self.header)
        if not candidates.core:
            return self._adopt()
        try:
            opened = self.opened = self._open(candidates, int(tools.now()))
        except UnreadableError as error:
            tools.emit("refused", error.reason, kid=error.kid)
            self.withheld = error.reason if error.keeps_cookie else None
            return LoadResult(withheld=self.withheld)
        record = self.record = opened.record
        tools.emit("opened", kid=opened.key.kid, session_id=record.id)
        return record

    def recall(self, name: str) -> bytes | None:
        record = self.record
        if record is None:
            return None
        found = (
            self._recall_spilled(record, name)
            if name in record.spilled
            else (self._opened_overflow(record).get(name))
        )
        if found is None:
            self.toolkit.emit("part-missing", session_id=record.id)
            log.warning("a part of a session is missing: %r", name)
        return found

    def encode(self, name: str, value: object) -> bytes:
        try:
            return codec.encode(value)
        except UnsupportedValue:
            # Only who is told of it needs the path to it, which costs more than a small value.
            return codec.encode(value, f"session[{name!r}]")

    def decode(self, name: str, data: bytes) -> object:
        try:
            return codec.decode(data)
        except MalformedRecord as error:
            self.toolkit.emit("part-unreadable")
            raise UnreadablePart(f"session[{name!r}] was written by another release") from error

    def end(self) -> None:
        if self.withheld is not None:
            raise SessionWithheld(self.withheld)
        record = self.record or self.adopted
        if record is None:
            return
        if self.revoked:
            self.forget(record.id, {**record.left, **record.spilled})
        else:
            self.revoke(record)

    def new_id(self) -> bytes:
        return self.toolkit.settings.random(ID_BYTES)

    def now(self) -> float:
        return self.toolkit.now()

    # --- what saving asks -----------------------------------------------------------------------

    def revoke(self, record: Record, replaced: bool = False) -> bool:
        """Refuse this session from now on, then drop its rows. Raises StorageError.

        `replaced`: it goes on under a new id. False when somebody else had revoked it already.
        """
        tools, now = self.toolkit, self.toolkit.now()
        if tools.revocations is None:
            return True
        until = self._refused_until(record)
        how = Ending.REPLACED if replaced else Ending.LOGGED_OUT
        first = tools.revocations.revoke(record.id, until, how)
        tools.emit("revoked", session_id=record.id)
        tools.hooks.after_revoke(record.id, now)
        self.forget(record.id, {**record.left, **record.spilled})
        return first

    def forget(self, session_id: bytes, rows: dict[str, int]) -> None:
        """Delete rows that are no longer used; one that can't be deleted expires by itself."""
        parts = self.toolkit.parts
        if parts is None:
            return
        for name, version in rows.items():
            try:
                parts.delete(session_id, name, self.versions.get(name, version))
            except StorageError as error:
                log.warning("a stored part could not be deleted: %s", error)

    def check_revoked(self, record: Record) -> None:
        """Raise RevokedSession, or UncheckedSession when the store does not answer."""
        revocations = self.toolkit.revocations
        if revocations is None:
            return
        try:
            revocations.check(record)
        except StorageError as error:
            log.error("revocations can't be checked: %s", error)
            raise UncheckedSession from error

    # --- helpers --------------------------------------------------------------------------------

    def _open(self, candidates: Candidates, now: int) -> OpenedRecord:
        tokens = self.toolkit.codec
        if len(candidates.core) == 1 and not candidates.crowded:
            return self._checked(tokens.open_text(candidates.core[0], now), now)
        alive: list[OpenedRecord] = []
        refused: UnreadableError | None = None
        for opened in tokens.open_core(candidates, now):
            try:
                alive.append(self._checked(opened, now))
            except UnreadableError as error:
                refused = refused if refused is not None and refused.keeps_cookie else error
        if refused is not None and not alive:
            raise refused
        if len(alive) > 1:
            raise AmbiguousSession
        return alive[0]

    def _checked(self, opened: OpenedRecord, now: int) -> OpenedRecord:
        """The same, if it may be used now. Raises UnreadableError of some kind."""
        settings, record = self.toolkit.settings, opened.record
        record.check_times(opened.sealed_at, now, self.toolkit.lifetimes, settings.skew)
        if self.toolkit.revocations is not None:
            self.check_revoked(record)
        return opened

    def _adopt(self) -> LoadResult:
        """An old session, when the request carries none of ours and one of another's."""
        reader = self.toolkit.settings.legacy
        text = None if reader is None else reader.find(self.header)
        if reader is None or text is None:
            return LoadResult()
        adopted = reader.read(text, int(self.toolkit.now()))
        if adopted is None:
            self.toolkit.emit("legacy-refused")
            return LoadResult()
        values = dict(adopted.values)
        subject = values.get(reader.subject) if reader.subject else None
        subject = None if subject is None else str(subject)
        # Signed before its subject was signed out everywhere, it is refused like any other.
        return self._adopted(Record(adopted.id, subject, adopted.signed_at, 0, 0), values)

    def _adopted(self, record: Record, values: dict[str, object]) -> LoadResult:
        try:
            for name, value in values.items():
                check_name(name)
                self.encode(name, value)
            self.check_revoked(record)
        except UncheckedSession as error:
            self.withheld = error.reason
            return LoadResult(withheld=error.reason)
        except (UnreadableError, ValueError, TypeError) as error:
            self.toolkit.emit("legacy-refused")
            log.info("an old session is not adopted: %s", type(error).__name__)
            return LoadResult()
        self.adopted = record
        self.toolkit.emit("adopted", session_id=record.id)
        return LoadResult(adopted=values, adopted_id=record.id, adopted_subject=record.subject)

    def _refused_until(self, record: Record) -> int:
        """When neither this session nor an old cookie that leads to its id can be opened."""
        settings, until = self.toolkit.settings, record.expires_at
        if settings.legacy is not None:
            # The old cookie may also have led other browsers to this id, as late as now.
            sealed_until = int(self.toolkit.now()) + settings.absolute_lifetime
            until = max(until, int(settings.legacy.until.timestamp()), sealed_until)
        return until + settings.skew

    def _recall_spilled(self, record: Record, name: str) -> bytes | None:
        tools = self.toolkit
        if tools.parts is None:
            return None
        recalled = tools.parts.recall(record.id, name, record.spilled[name])
        if recalled is None:
            return None
        self.versions = {**self.versions, name: recalled.version}
        tools.emit("recalled", session_id=record.id)
        return recalled.data

    def _opened_overflow(self, record: Record) -> dict[str, bytes]:
        if self._overflow is None:
            now = int(self.toolkit.now())
            found = self.toolkit.codec.open_overflow(record, self.candidates, now)
            self._overflow = found or {}
        return self._overflow


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


def read_revoked(
    toolkit: Deployment, session: Session, names: Collection[str]
) -> EndedRecord | None:
    """What the cookies of this request say of a session that was logged out; its parts `names`.

    None when they open a session, when they open none for any other reason, when the session goes
    on under a new id, and without a store. Raises StorageError.
    """
    visit, revocations = session.visit, toolkit.revocations
    if session.subject is not None or session.withheld is not None or revocations is None:
        return None
    if not isinstance(visit, LoadedSession) or visit.record is not None:
        return None
    now = toolkit.now()
    for record in _unexpired(toolkit, visit, int(now)):
        try:
            revocations.check(record)
        except RevokedSession:
            ending = revocations.ending(record.id)
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


def _unexpired(toolkit: Deployment, visit: LoadedSession, now: int) -> Iterator[Record]:
    try:
        opened = toolkit.codec.open_core(visit.candidates, now)
    except UnreadableError:
        return
    for each in opened:
        try:
            each.record.check_times(each.sealed_at, now, toolkit.lifetimes, toolkit.settings.skew)
        except UnreadableError:
            continue
        yield each.record


def _parts(
    toolkit: Deployment, visit: LoadedSession, record: Record, names: Collection[str]
) -> dict[str, object]:
    found = {name: _encoded(toolkit, visit, record, name) for name in names}
    values: dict[str, object] = {}
    for name, data in found.items():
        try:
            if data is not None:
                values[name] = codec.decode(data)
        except MalformedRecord:
            toolkit.emit("part-unreadable")
    return values


def _encoded(toolkit: Deployment, visit: LoadedSession, record: Record, name: str) -> bytes | None:
    if name in record.parts:
        return record.parts[name]
    if name in record.spilled:
        return recalled(toolkit, record.id, name, record.spilled[name])
    overflow = toolkit.codec.open_overflow(record, visit.candidates, int(toolkit.now()))
    return (overflow or {}).get(name)


def recalled(toolkit: Deployment, session_id: bytes, name: str, known: int = 0) -> bytes | None:
    """The encoded value of a stored part, at least of the version `known`. Raises StorageError."""
    if toolkit.parts is None:
        return None
    found = toolkit.parts.recall(session_id, name, known)
    return None if found is None else found.data

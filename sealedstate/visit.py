"""What one request brings, opened when its session is looked at.

Knows the Cookie header, and asks tokens, lifetimes and revocations in that order. Does not know how
a session is saved. One outcome for anything unreadable: no session; the reason goes to the journal.
"""

from __future__ import annotations

from . import codec
from .cookies import Candidates
from .errors import (
    AmbiguousSession,
    MalformedRecord,
    SessionWithheld,
    StorageError,
    UncheckedSession,
    UnreadableError,
    UnreadablePart,
    UnsupportedValue,
)
from .record import ID_BYTES, Record, check_name
from .revocation import Ending
from .session import Arrival
from .spilling import Row
from .tokens import OpenedRecord
from .toolkit import Toolkit, log


class RequestVisit:
    """One request, as its session sees it."""

    # How it begins: a request that nobody asks for its session does no more than keep its header.
    candidates = Candidates()
    # What arrived, if anything, and as it was sealed.
    record: Record | None = None
    opened: OpenedRecord | None = None
    withheld: str | None = None
    adopted: Record | None = None
    # Whether its revocation is recorded already, by its id.
    revoked = False
    _overflow: dict[str, bytes] | None = None

    def __init__(self, toolkit: Toolkit, cookie_header: str) -> None:
        self._toolkit = toolkit
        self._header = cookie_header
        # Versions in the store, where a recall has found another one than the manifest says.
        self.versions: dict[str, int] = {}

    @property
    def has_old_cookie(self) -> bool:
        """Whether the request carries a cookie that the legacy reader looks for."""
        reader = self._toolkit.settings.legacy
        return reader is not None and reader.find(self._header) is not None

    # --- what a session asks --------------------------------------------------------------------

    def arrive(self) -> Arrival:
        self.candidates = self._toolkit.cookies.find(self._header)
        if not self.candidates.core:
            return self._adopt()
        try:
            opened = self.opened = self._open()
        except UnreadableError as error:
            self._toolkit.note("refused", reason=error.reason, kid=error.kid)
            self.withheld = error.reason if error.keeps_cookie else None
            return Arrival(withheld=self.withheld)
        self.record = opened.record
        self._toolkit.note("opened", opened.record.id, kid=opened.key.kid)
        return Arrival(opened.record)

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
            self._toolkit.note("part-missing", record.id)
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
            self._toolkit.note("part-unreadable")
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
        return self._toolkit.settings.random(ID_BYTES)

    # --- what saving asks -----------------------------------------------------------------------

    def revoke(self, record: Record, replaced: bool = False) -> bool:
        """Refuse this session from now on, then drop its rows. Raises StorageError.

        `replaced`: it goes on under a new id. False when somebody else had revoked it already.
        """
        tools, now = self._toolkit, self._toolkit.now()
        if tools.revocations is None:
            return True
        until = self._refused_until(record)
        how = Ending.REPLACED if replaced else Ending.LOGGED_OUT
        first = tools.revocations.revoke(record.id, until, now, how)
        tools.note("revoked", record.id)
        tools.followers.after_revoke(record.id, now)
        self.forget(record.id, {**record.left, **record.spilled})
        return first

    def forget(self, session_id: bytes, rows: dict[str, int]) -> None:
        """Delete rows that are no longer used; one that can't be deleted expires by itself."""
        spiller = self._toolkit.spiller
        if spiller is None:
            return
        for name, version in rows.items():
            try:
                spiller.forget(Row(session_id, name), self.versions.get(name, version))
            except StorageError as error:
                log.warning("a stored part could not be deleted: %s", error)

    def check_revoked(self, record: Record) -> None:
        """Raise RevokedSession, or UncheckedSession when the store does not answer."""
        revocations = self._toolkit.revocations
        if revocations is None:
            return
        try:
            revocations.check(record, self._toolkit.now())
        except StorageError as error:
            log.error("revocations can't be checked: %s", error)
            raise UncheckedSession from error
        self._toolkit.store_answered()

    # --- helpers --------------------------------------------------------------------------------

    def _open(self) -> OpenedRecord:
        now = int(self._toolkit.now())
        found = self._toolkit.tokens.open_core(self.candidates, now)
        if len(found) == 1:
            return self._checked(found[0], now)
        alive: list[OpenedRecord] = []
        refused: UnreadableError | None = None
        for opened in found:
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
        settings, record = self._toolkit.settings, opened.record
        record.check_times(opened.sealed_at, now, settings.lifetimes, settings.skew)
        self.check_revoked(record)
        return opened

    def _adopt(self) -> Arrival:
        """An old session, when the request carries none of ours and one of another's."""
        reader = self._toolkit.settings.legacy
        text = None if reader is None else reader.find(self._header)
        if reader is None or text is None:
            return Arrival()
        adopted = reader.read(text, int(self._toolkit.now()))
        if adopted is None:
            self._toolkit.note("legacy-refused")
            return Arrival()
        values = dict(adopted.values)
        subject = values.get(reader.subject) if reader.subject else None
        subject = None if subject is None else str(subject)
        # Signed before its subject was signed out everywhere, it is refused like any other.
        return self._adopted(Record(adopted.id, subject, adopted.signed_at, 0, 0), values)

    def _adopted(self, record: Record, values: dict[str, object]) -> Arrival:
        try:
            for name, value in values.items():
                check_name(name)
                self.encode(name, value)
            self.check_revoked(record)
        except UncheckedSession as error:
            self.withheld = error.reason
            return Arrival(withheld=error.reason)
        except (UnreadableError, ValueError, TypeError) as error:
            self._toolkit.note("legacy-refused")
            log.info("an old session is not adopted: %s", type(error).__name__)
            return Arrival()
        self.adopted = record
        self._toolkit.note("adopted", record.id)
        return Arrival(adopted=values, adopted_id=record.id, adopted_subject=record.subject)

    def _refused_until(self, record: Record) -> int:
        """When neither this session nor an old cookie that leads to its id can be opened."""
        settings, until = self._toolkit.settings, record.expires_at
        if settings.legacy is not None:
            # The old cookie may also have led other browsers to this id, as late as now.
            sealed_until = int(self._toolkit.now()) + settings.absolute_lifetime
            until = max(until, int(settings.legacy.until.timestamp()), sealed_until)
        return until + settings.skew

    def _recall_spilled(self, record: Record, name: str) -> bytes | None:
        tools = self._toolkit
        if tools.spiller is None:
            return None
        recalled = tools.spiller.recall(
            Row(record.id, name), record.spilled[name], tools.tokens.keyring(), tools.now()
        )
        tools.store_answered()
        if recalled is None:
            return None
        self.versions[name] = recalled.version
        tools.note("recalled", record.id)
        return recalled.data

    def _opened_overflow(self, record: Record) -> dict[str, bytes]:
        if self._overflow is None:
            now = int(self._toolkit.now())
            found = self._toolkit.tokens.open_overflow(record, self.candidates, now)
            self._overflow = found or {}
        return self._overflow

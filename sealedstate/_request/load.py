"""What one request brings: its cookies, opened and checked.

The order of checks, for each candidate in the Cookie header: the seal, the record, its lifetimes,
then its revocation, which is the first question to the store. There is one outcome for everything
that cannot be opened: no session. The reason goes to the event log, never to the client.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast
from uuid import UUID

from .._cookies.codec import DisabledRecord, OpenedRecord, newest
from .._cookies.header import Candidates, merge_lines
from .._cookies.placement import Reserve
from .._stored.revocations import Ending, Successor, subject_mark
from .._wire import cbor
from .._wire.record import (
    DEVICE,
    ID_BYTES,
    NO_FIELDS,
    NO_ROWS,
    NO_TERMS,
    Lifetimes,
    Place,
    Policy,
    Record,
    check_name,
    check_subject,
)
from ..deployment import Deployment, log
from ..errors import (
    AmbiguousSession,
    CrowdedCookie,
    ExpiredSession,
    ForgedToken,
    FutureSession,
    HeldBackCookie,
    KeyRemoved,
    MalformedRecord,
    ReplacedSession,
    RevokedSession,
    SessionNotLoaded,
    SessionWithheld,
    StorageError,
    UnboundSession,
    UncheckedSession,
    UnknownField,
    UnreadableError,
    quote_text,
)
from ..keyring import Key
from ..profiles import FLOOR_BYTES
from ..session import IN_BROWSER, Part, Refusal, Session, core_part

if TYPE_CHECKING:
    from ..legacy import LegacyReader

# The most that a version takes in the list of stored parts, and an entry besides its name.
VERSION_BYTES = 9
ENTRY_BYTES = 3 + VERSION_BYTES
# How long after its seal a cookie may be withheld before that is a warning.
LONG_SECONDS = 60
# What the operator can do, by the reason for which a cookie is withheld.
REMEDIES = {
    "kid-unknown": "these keys do not have the key of the cookie. Compare them with those of the"
    " other nodes, and look for errors of the ring. If another application on this host uses the"
    " cookie name {name} with other keys, set a different cookie_name",
    "kid-disabled": "the key of the cookie is disabled; enable or revoke it",
    "format-unknown": "a newer release wrote the cookie; look for nodes of an older release",
    "field-unknown": "a newer release wrote the cookie; look for nodes of an older release",
    "record": "a newer release wrote the cookie; look for nodes of an older release",
    "not-yet": "the cookie is from the future; compare the clocks of the nodes",
    "ambiguous": "there are two sessions under the cookie name {name}; look for another host or"
    " path that sets cookies of this name",
    "crowded": "there are too many cookies of the name {name}; look for another host or path that"
    " sets cookies of this name",
    "tag": "the cookie was altered, or another application on this host seals with the same keys"
    " under the cookie name {name}, for another realm, path, domain or partitioning; then set a"
    " different cookie_name",
}
# Reasons to give a cookie up although its session may be alive.
GIVEN_UP = frozenset({"format-unknown", "field-unknown", "record", "not-yet", "tag"})

# Follows the name of a part, in the row that has a copy of what the browser keeps.
COPY = "\0browser"

NO_VALUES: Mapping[str, object] = MappingProxyType({})
# What a visitor may learn of why a cookie opened no session. A cookie that is kept is "withheld",
# unless it was replaced; of reasons that are not here, nothing: it was no session of this
# application.
REFUSALS: Mapping[str, Refusal] = MappingProxyType(
    {
        "expired": "expired",
        "kid-refused": "expired",
        "kid-removed": "expired",
        "format-unknown": "expired",
        "field-unknown": "expired",
        "record": "expired",
        "not-yet": "expired",
        "unbound": "expired",
        "sealed-before": "signed-out",
        "revoked": "signed-out",
        "replaced": "replaced",
    }
)


class SizeCheck(Protocol):
    """Raises SessionTooLarge if no response to the request could carry the session.

    Returns what more it could certainly carry, None if that is unknown.
    """

    def __call__(self, session: Session, loaded: LoadedSession, /) -> Reserve | None: ...


class LoadedSession:
    """The session of one request, as its cookies have it.

    `cross_site`: whether the browser may have held our cookies back, see `Keeper.is_cross_site`.
    `candidates`: the session's cookies in the Cookie header. `record`: the session that was opened,
    if any, and `opened` the same with the time of its seal and its key. `refused`: why none was
    opened, if cookies came, and `withheld`: the same if they are kept; `withheld_since`: when their
    token says that it was sealed, if only time will show (epoch seconds). `known`: the authentic
    records of withheld cookies, if all of them are known. `replaced`: the authentic record of a
    session that is withheld because another request gave it a new id. `adopted`, `adopted_values`:
    the session of a legacy cookie, and `_adopted_from` the same with the id that is made of the
    cookie. `versions`: versions in the store that a recall found newer than the manifest.
    `is_revoked`: see `mark_revoked`.
    `unbound`: the record of a bound session whose bound cookie did not come or has expired.
    `revoked_records`: authentic, unexpired records that were refused as revoked. `sent`: the
    Set-Cookie field values of saves in this request. `may_wait`: False while an event loop would
    wait for the store; what would ask it then raises SessionNotLoaded.
    """

    record: Record | None = None
    opened: tuple[Record, int, Key] | None = None
    refused: str | None = None
    withheld: str | None = None
    withheld_since: int | None = None
    withheld_kid: bytes | None = None
    known: tuple[Record, ...] = ()
    adopted: Record | None = None
    adopted_values: Mapping[str, object] = NO_VALUES
    _adopted_from: Record | None = None
    versions: Mapping[str, int | None] = NO_ROWS
    replaced: Record | None = None
    unbound: Record | None = None
    is_revoked = False
    sent: list[str] = []  # noqa: RUF012
    may_wait = True
    _overflow: dict[str, bytes] | None = None
    # The overflow's chunks and token, once they were looked for and found.
    _chunks: tuple[tuple[str, ...], bytes] | None = None
    # What was recalled ahead: the encoding, None for a part that is lost, or why it is not known.
    _ahead: Mapping[str, bytes | StorageError | None] = MappingProxyType({})

    def __init__(
        self,
        deployment: Deployment,
        size_check: SizeCheck,
        header: str,
        cross_site: bool = False,
    ) -> None:
        self.deployment = deployment
        self._size_check = size_check
        self.header = header
        self._now = deployment.now()
        self.loaded_at = int(self._now)
        self.candidates = deployment.cookies.find(header)
        self.revoked_records: list[Record] = []
        if self.candidates.core:
            self._open()
        elif cross_site:
            self.withheld = HeldBackCookie.reason
        elif deployment.settings.legacy is not None:
            self._adopt(deployment.settings.legacy)

    @property
    def lifetimes(self) -> Lifetimes:
        return self.deployment.lifetimes

    @property
    def convert(self) -> Callable[[object], object] | None:
        return self.deployment.settings.convert

    @property
    def subject_key(self) -> str | None:
        return self.deployment.settings.subject_key

    @property
    def legacy_names(self) -> list[str]:
        """The names of the request's cookies that the legacy reader looks for."""
        reader = self.deployment.settings.legacy
        return [] if reader is None else reader.names(self.header)

    @property
    def refusal(self) -> Refusal | None:
        if self.withheld not in (None, ReplacedSession.reason):
            return "withheld"
        return REFUSALS.get(self.refused or "")

    # --- opening --------------------------------------------------------------------------------

    def _open(self) -> None:
        deployment, candidates = self.deployment, self.candidates
        timer = deployment.events.timer
        began = None if timer is None else timer()
        try:
            try:
                opened = self._open_one(candidates)
            except UnreadableError as error:
                # A foreign value may pose as a cookie after a comma, so it never competes with a
                # cookie that opens, or that another node may open.
                if candidates.joined is None or error.keeps_cookie:
                    raise
                opened = self._open_one(candidates.joined)
        except UnreadableError as error:
            self._refuse(error, began)
            return
        record, _, key = opened
        self.opened, self.record, self.known, self.replaced = opened, record, (), None
        if timer is None or began is None:
            deployment.emit("opened", kid=key.kid, session_id=record.id)
            return
        deployment.emit(
            "opened",
            kid=key.kid,
            session_id=record.id,
            seconds=timer() - began,
            numbers=self._header_sizes(),
        )

    def _open_one(self, candidates: Candidates) -> tuple[Record, int, Key]:
        """The only usable record of these candidates. Raises UnreadableError."""
        codec = self.deployment.codec
        if len(candidates.core) != 1 or candidates.crowded:
            return self._choose(candidates)
        try:
            opened = codec.unseal_text(candidates.core[0], self.loaded_at)
        except UnreadableError as error:
            raise self._reconsider(error) from error
        self._check(opened)
        return opened

    def _choose(self, candidates: Candidates) -> OpenedRecord:
        """The only usable record of several candidates. Raises UnreadableError."""
        authentic: list[OpenedRecord] = []
        usable: list[OpenedRecord] = []
        refused: list[UnreadableError] = [CrowdedCookie()] if candidates.crowded else []
        for text in candidates.core:
            try:
                authentic.append(self.deployment.codec.open_text(text, self.loaded_at))
            except UnreadableError as error:
                refused.append(self._reconsider(error))
        for opened in newest(authentic):
            try:
                self._check(opened)
                usable.append(opened)
            except UnreadableError as error:
                refused.append(error)
        if len(usable) == 1:
            self.known = ()
            return usable[0]
        if usable:
            # Choosing one could give a visitor the session of another. It ends when the first of
            # them expires, because a session that is not used is not renewed.
            self.known = tuple(opened.record for opened in usable)
            raise AmbiguousSession(claimed_at=max(opened.sealed_at for opened in usable))
        # A reason to keep the cookie outweighs any other: a deletion would delete it, too.
        kept = [error for error in refused if error.keeps_cookie]
        if len(kept) > len(self.known):
            self.known = ()  # they can be ended only together
        raise (kept or refused[-1:] or [ForgedToken()])[0]

    def _reconsider(self, error: UnreadableError) -> UnreadableError:
        """Why a candidate is refused: its session may be over, although its key is disabled."""
        if isinstance(error, DisabledRecord):
            try:
                self._check(error.opened)
            except UnreadableError as reason:
                return reason
            self.known += (error.opened.record,)
        elif isinstance(error, UnknownField):
            times = error.created_at, error.expires_at
            self.known += (Record(error.session_id, error.subject, *times, generation=0),)
        return error

    def _check(self, opened: tuple[Record, int, Key]) -> None:
        """Raise UnreadableError if the record cannot be used now."""
        deployment, now, (record, sealed_at, key) = self.deployment, self.loaded_at, opened
        lifetimes, terms, ahead = deployment.lifetimes, record.terms, sealed_at - now
        # A node whose clock is ahead may date a seal once more the skew ahead: `sealing_time`.
        if ahead > 2 * deployment.settings.skew:
            ring = deployment.keyring()
            # It will open soon, unless no node could be as far ahead.
            is_over = ahead > ring.announce + ring.skew
            if not is_over:
                self.known += (record,)
            raise FutureSession(kid=key.kid, claimed_at=sealed_at, is_over=is_over)
        # A node that knows shorter lifetimes than the node that sealed goes by its own.
        idle, absolute = lifetimes.idle, lifetimes.absolute
        if terms is not NO_TERMS:
            idle = terms.idle or idle
            absolute = lifetimes.longest if terms.has_own_end else absolute
        if (
            now >= record.expires_at
            or now >= sealed_at + idle
            or now >= record.created_at + absolute
        ):
            raise ExpiredSession
        revocations = deployment.revocations
        if revocations is not None and not revocations.is_known_live(record, self._now):
            self.check_revoked(record, asks=False)
        if record.fields is not NO_FIELDS and DEVICE in record.fields:
            self._check_bound(record)

    def _check_bound(self, record: Record) -> None:
        """Raise UnboundSession unless the request has the bound cookie, or the policy allows it."""
        deployment, settings = self.deployment, self.deployment.settings
        texts = deployment.cookies.find_bound(self.header)
        device, lifetime = record.fields[DEVICE], settings.bound_lifetime
        if deployment.codec.is_bound(texts, device, self.loaded_at, lifetime):
            return
        self.unbound = record
        if settings.on_unbound == "report":
            deployment.emit("unbound", session_id=record.id)
            return
        is_kept = settings.on_unbound == "refuse"
        if is_kept:
            self.known += (record,)
        raise UnboundSession(is_over=not is_kept)

    def check_revoked(self, record: Record, *, asks: bool = True) -> None:
        """Raise RevokedSession, or UncheckedSession if the store does not answer.

        `asks`: False if what this process knows of logouts will do, as where a session is opened. A
        response that sets its cookie asks: it must not put a replaced id back into the browser.
        """
        revocations = self.deployment.revocations
        if revocations is None:
            return
        try:
            revocations.check(record, asks=asks)
        except RevokedSession:
            self.revoked_records.append(record)
            raise
        except ReplacedSession:
            self.replaced = record
            raise
        except StorageError as error:
            self.deployment.emit(
                "logouts-unknown",
                detail=f"whether sessions were logged out cannot be checked: {error}",
                level=logging.ERROR,
                is_frequent=True,
            )
            self.known += (record,)
            raise UncheckedSession from error

    def _header_sizes(self) -> dict[str, int]:
        """The bytes of our cookies in the Cookie header, and of the others."""
        found = self.candidates
        return {"cookie_bytes": found.our_bytes, "foreign_bytes": max(0, found.foreign_bytes)}

    def _refuse(self, error: UnreadableError, began: float | None) -> None:
        """`began`: when opening began, if that is measured."""
        deployment, claimed_at = self.deployment, error.claimed_at
        timer, seconds, numbers = deployment.events.timer, None, None
        if timer is not None and began is not None:
            seconds, numbers = timer() - began, self._header_sizes()
        deployment.emit("refused", error.reason, kid=error.kid, seconds=seconds, numbers=numbers)
        self.refused = error.reason
        # A cookie that another node or a later moment may open is neither deleted nor overwritten.
        if not isinstance(error, ReplacedSession):
            self.replaced = None
        if error.keeps_cookie:
            self.withheld, self.withheld_since = error.reason, claimed_at
            self.withheld_kid = error.kid
            return
        self.known = ()
        ends_at = (claimed_at or 0) + deployment.lifetimes.longest
        if isinstance(error, UnknownField):
            ends_at = error.expires_at
        if self.loaded_at >= ends_at:
            return
        if error.reason in GIVEN_UP:
            remedy = REMEDIES[error.reason].format(name=deployment.cookies.name)
            deployment.emit(
                "given-up",
                error.reason,
                kid=error.kid,
                detail=f"a cookie is given up although its session may be alive: {remedy}",
                level=logging.WARNING,
                is_frequent=True,
            )
        if isinstance(error, KeyRemoved):
            deployment.emit(
                "key-missing",
                kid=error.kid,
                detail="a cookie is given up although its session may be alive, because these keys"
                " do not have its key: the key was removed too early or generated again, or"
                f" another application on this host uses the cookie name {deployment.cookies.name}"
                " with other keys; then set a different cookie_name",
                level=logging.WARNING,
                is_frequent=True,
            )

    def note_lost_write(self) -> None:
        """Report a change that is not sent because the cookies are withheld."""
        deployment, since = self.deployment, self.withheld_since
        deployment.emit("not-sent", reason=self.withheld)
        if since is None or self.withheld is None:
            return
        if self.loaded_at > since + deployment.settings.skew + LONG_SECONDS:
            deployment.emit(
                "withheld-long",
                reason=self.withheld,
                kid=self.withheld_kid,
                detail=f"what a visitor changes is not sent: {REMEDIES[self.withheld]}".format(
                    name=deployment.cookies.name
                ),
                level=logging.WARNING,
                is_frequent=True,
            )

    def _adopt(self, reader: LegacyReader) -> None:
        """Take over the session of a legacy cookie, if the request carries a valid one."""
        text = reader.find(self.header)
        if text is None:
            return
        try:
            adopted = reader.read(text, self.loaded_at)
            if adopted is None:
                self.deployment.emit("legacy-refused")
                return
            subject = adopted.values.get(reader.subject) if reader.subject else None
            if subject is not None:
                # Only what names a user in one spelling. A number is the key of a user's row.
                if type(subject) in (int, UUID):
                    subject = str(subject)
                check_subject(subject)
            # It began when it was signed, so a sign-out of its subject since then refuses it.
            record = Record(adopted.id, cast("str | None", subject), adopted.signed_at, 0, 0)
            carried: dict[str, object] = {}
            for name, value in adopted.values.items():
                try:
                    check_name(name)
                    cbor.encode(value, f"session[{name!r}]", self.convert)
                    carried[name] = value
                except (ValueError, TypeError) as error:
                    shown, kind = quote_text(name), type(error).__name__
                    log.warning("a part of a legacy session is not adopted: %s: %s", shown, kind)
            if adopted.values and not carried:
                raise ValueError("no part of it can be carried")
            self.check_revoked(record, asks=False)
        except UncheckedSession as error:
            self.refused = self.withheld = error.reason
        except (UnreadableError, ValueError, TypeError) as error:
            self.deployment.emit("legacy-refused")
            log.info("a legacy session is not adopted: %s", type(error).__name__)
        else:
            self._adopted_from = record
            if subject is None and not adopted.is_unique:
                # Another visitor may have the same cookie, but never the same session.
                record = record.replace(id=self.new_id())
            self.adopted, self.adopted_values = record, carried
            self.deployment.emit("adopted", session_id=record.id)

    # --- what a session asks --------------------------------------------------------------------

    def recall(self, name: str) -> bytes | None:
        record = self.record
        if record is None:
            return None
        data: bytes | None = None
        if name in self._ahead:
            found = self._ahead[name]
            if isinstance(found, StorageError):
                raise found
            return found
        if name in record.spilled:
            if not self.may_wait:
                is_served = self.deployment.policies.get(name) is Policy.SERVER
                what = f"session[{name!r}] is in the store"
                raise SessionNotLoaded(what, name if is_served else None)
            stored = self.deployment.parts
            version = record.spilled[name]
            recalled = None if stored is None else stored.recall(record.id, name, version)
            if recalled is not None:
                self.versions = {**self.versions, name: recalled.version}
                self.deployment.emit("recalled", session_id=record.id)
                data = recalled.value
        else:
            if self._overflow is None:
                self._overflow = self._open_overflow(record)
            data = self._overflow.get(name)
        if data is None and not (name in record.spilled and self._is_over(record)):
            self.deployment.emit("part-missing", session_id=record.id)
            log.warning("a part of a session is missing: %s", quote_text(name))
        return data

    def recall_copy(self, name: str) -> bytes | None:
        record, parts = self.record, self.deployment.parts
        if record is None or parts is None or not self.may_wait:
            return None
        try:
            entry = parts.recall(record.id, name + COPY)
        except StorageError as error:
            log.warning("a copy of a part that the browser keeps cannot be read: %s", error)
            return None
        return None if entry is None else entry.value

    def write_copy(self, name: str, data: bytes | None) -> None:
        record, parts = self.record, self.deployment.parts
        if record is None or parts is None:
            return
        row, ends = name + COPY, record.expires_at + self.deployment.settings.skew
        if data is None:
            self.delete_rows(record.id, {row: None})
        else:
            parts.spill(record.id, row, data, known=None, base=None, expires_at=ends)

    def recall_ahead(self, names: Collection[str] | None) -> None:
        record = self.record
        if record is None:
            return
        ahead = dict(self._ahead)
        for name in record.spilled:
            if name not in ahead and (names is None or name in names):
                try:
                    ahead[name] = self.recall(name)
                except StorageError as error:
                    ahead[name] = error
        self._ahead = ahead

    def free_bytes(self) -> int:
        candidates, (most_foreign, room) = self.candidates, self.deployment.ample_room
        if candidates.foreign_bytes > most_foreign:
            return 0
        record = self.record
        if record is not None and (record.spilled or record.orphaned_rows):
            # The versions of rows may get longer than they were in the cookie.
            room -= VERSION_BYTES * (len(record.spilled) + len(record.orphaned_rows))
        return room - candidates.our_bytes

    def list_room(self, names: Iterable[str]) -> int:
        room, record = self.deployment.list_room, self.record
        if room < 0 or (record is not None and record.fields):
            return -1
        return room - sum([len(name.encode()) + ENTRY_BYTES for name in names])

    def check_size(self, session: Session) -> Reserve | None:
        # Of a withheld session nothing is sent but a sign-in.
        return None if self.withheld is not None else self._size_check(session, self)

    def note_unreadable(self, name: str) -> None:
        self.deployment.emit("part-unreadable")

    def check_known(self) -> None:
        """Raise SessionWithheld if the browser may have a session whose id is not known here."""
        if self.withheld is not None and self.replaced is None and not self.known:
            raise SessionWithheld(self.withheld)

    def end(self) -> None:
        if self.deployment.store is not None and not self.may_wait:
            raise SessionNotLoaded("a logout is recorded in the store")
        if not self.is_revoked:
            self.check_known()
        record = self.record or self._adopted_from or self.replaced
        if self.withheld is not None and self.replaced is None:
            for known in self.known:
                # Until no clock and no field that is unknown here can let it live.
                longest = known.created_at + self.deployment.longest_lifetime()
                self._end(known.replace(expires_at=max(known.expires_at, longest)))
        elif record is not None and self.is_revoked:
            self.delete_rows(record.id, {**record.orphaned_rows, **record.spilled})
        elif record is not None:
            self._end(record)
        # A cookie that got a new id long ago is refused as revoked, and its session may be alive.
        revocations = self.deployment.revocations
        if revocations is None:
            return
        adopted = self._adopted_from
        if adopted is not None and record is not None and adopted.id != record.id:
            # An earlier save of this request has sealed it with an id that its old cookie lacks.
            revocations.end(adopted.id, self._last_moment(adopted), Ending.LOGGED_OUT)
        for record in self.revoked_records:
            if revocations.ending(record.id) is Ending.REPLACED:
                until = self._last_moment(record)
                ended = revocations.end(record.id, until, Ending.LOGGED_OUT)
                if ended is not None:
                    self._report_refused(record, ended)

    def new_id(self) -> bytes:
        return self.deployment.random(ID_BYTES)

    def now(self) -> float:
        return self.deployment.now()

    def mark_revoked(self) -> None:
        """Its revocation is recorded already, by its id: `end` only deletes its rows."""
        self.is_revoked = True

    # --- what a save asks -----------------------------------------------------------------------

    def kept_chunks(self, now: int) -> tuple[str, ...] | None:
        """The overflow's cookies, if they can be sent again as they came; else None."""
        codec, found = self.deployment.codec, self._chunks
        if found is None and self.record is not None:
            found = self._chunks = codec.find_chunks(self.record, self.candidates)
        return found[0] if found is not None and codec.is_current(found[1], now) else None

    def note_saved(
        self,
        saved: OpenedRecord | None,
        overflow: Mapping[str, bytes] | None,
        versions: Mapping[str, int | None],
        lines: list[str],
    ) -> None:
        """Begin again with what a save has written, as if the browser had sent that.

        `saved`: None if no session is left. `overflow`: its parts in chunk cookies; None if these
        are sent as they came. `versions`: of stored parts, where the next write assumes another
        version than the record's. `lines`: what is sent; the lines of an earlier save stay, unless
        they set or delete the same cookie.
        """
        self.sent = merge_lines(self.sent, lines)
        self.opened, self.record = saved, None if saved is None else saved.record
        self.adopted = self.replaced = self.withheld = self.refused = None
        self.known, self.versions, self.is_revoked = (), versions, False
        self._ahead, self._chunks = {}, None
        if overflow is not None:
            self._overflow = dict(overflow)
        pairs = "; ".join(line.partition(";")[0] for line in self.sent if "=;" not in line)
        # The sizes stay those of the request: only what it carried is known to come through.
        self.candidates = replace(
            self.deployment.cookies.find(pairs),
            foreign_bytes=self.candidates.foreign_bytes,
            our_bytes=self.candidates.our_bytes,
        )

    def replace(self, old: Record, new: Record, *, is_signed_in: bool) -> Ending | None:
        """Refuse session `old` from now on, because it continues as `new`; then delete its rows.

        Otherwise, why `new` must not be sent: `old` was ended meanwhile, or has another successor.
        Raises StorageError or NoPrimaryKey.
        """
        revocations = self.deployment.revocations
        if revocations is None:
            return None
        ours, before = subject_mark(new.subject), subject_mark(old.subject)
        joins: Collection[bytes] | None = (ours, before) if is_signed_in else ()
        if self.record is None and self.replaced is not None:
            # This request began after the other new id, so it takes the place of any.
            joins = None
        successor = Successor(new.id, new.expires_at, ours, before)
        refused = revocations.replace(old.id, self._last_moment(old), successor, joins=joins)
        if isinstance(refused, Ending):
            return refused
        self._report_refused(old, refused)
        return None

    def delete_rows(self, session_id: bytes, rows: Mapping[str, int | None]) -> None:
        """Delete rows that are no longer used; a row that cannot be deleted will expire."""
        parts = self.deployment.parts
        if parts is None:
            return
        recalled = NO_ROWS if self.record is None or self.record.id != session_id else self.versions
        for name, version in rows.items():
            try:
                parts.delete(session_id, name, recalled.get(name, version))
            except StorageError as error:
                log.warning("a stored part could not be deleted: %s", error)

    def _last_moment(self, record: Record) -> int:
        """When no node opens any cookie of this session any more (epoch seconds)."""
        settings, expires_at = self.deployment.settings, record.expires_at
        if settings.legacy is not None:
            # The legacy cookie may have led other browsers to this id, as late as now.
            sealed_until = int(self.deployment.now()) + self.deployment.longest_lifetime()
            expires_at = max(expires_at, int(settings.legacy.until.timestamp()), sealed_until)
        return expires_at + settings.skew

    def _end(self, record: Record) -> None:
        revocations = self.deployment.revocations
        if revocations is not None:
            ended = revocations.end(record.id, self._last_moment(record), Ending.LOGGED_OUT)
            self._report_refused(record, ended or record.id)

    def _report_refused(self, record: Record, refused_id: bytes) -> None:
        """`refused_id` is refused from now on: that of `record`, or of what replaced it."""
        self.deployment.emit("revoked", session_id=refused_id)
        self.deployment.hooks.after_revoke(refused_id, self.deployment.now())
        copies = {
            name + COPY: None for name, data in record.parts.items() if data[:1] == IN_BROWSER
        }
        self.delete_rows(record.id, {**record.orphaned_rows, **record.spilled, **copies})

    # --- helpers --------------------------------------------------------------------------------

    def _is_over(self, record: Record) -> bool:
        """Whether another request ended the session meanwhile, and with it its stored parts."""
        revocations = self.deployment.revocations
        try:
            if revocations is not None:
                revocations.check(record)
        except (RevokedSession, ReplacedSession):
            return True
        except StorageError:
            pass  # it cannot be known now
        return False

    def _open_overflow(self, record: Record) -> dict[str, bytes]:
        codec, now = self.deployment.codec, int(self.deployment.now())
        return codec.open_overflow(record, self.candidates, now) or {}

    # --- sessions that have ended ---------------------------------------------------------------

    def part_of(self, record: Record, name: str) -> bytes | None:
        """The encoding of a part of such a record; None if it is not there. Raises StorageError."""
        if name in record.parts:
            return record.parts[name]
        if name not in record.spilled:
            return self._open_overflow(record).get(name)
        stored = self.deployment.parts
        version = record.spilled[name]
        recalled = None if stored is None else stored.recall(record.id, name, version)
        return None if recalled is None else recalled.value


def revoke_id(deployment: Deployment, session_id: bytes, *, follows: bool = True) -> bytes | None:
    """Refuse a session from now on, without its cookie, or the session that replaced it.

    `follows`: whether to follow new ids of the same subject. Returns the id that is refused now;
    None if the session was refused already. Raises StorageError or NoPrimaryKey.
    """
    settings, now, revocations = deployment.settings, deployment.now(), deployment.revocations
    if revocations is None:
        raise AssertionError("sessions are ended by id only with a store")
    # It may have begun as late as now by a clock that is ahead, after a watermark ahead of it.
    until = int(now) + deployment.longest_lifetime() + 3 * settings.skew
    if settings.legacy is not None:
        until = max(until, int(settings.legacy.until.timestamp()) + settings.skew)
    ended = revocations.end(session_id, until, Ending.REVOKED, follows=follows)
    deployment.emit("revoked", session_id=ended or session_id)
    deployment.hooks.after_revoke(ended or session_id, now)
    return ended


@dataclass(frozen=True, slots=True)
class EndedRecord:
    """What the cookies of a request say of a session that was ended.

    `id`: 16 bytes. `parts`: some of its parts; a part is missing that was not there, or that the
    store no longer has. `torn`: those whose cookies did not all come. `from_outside`: it was not
    ended in a request that carried its cookies, but by its id or with all sessions of its subject.
    """

    id: bytes = field(repr=False)
    subject: str | None = field(repr=False)
    parts: Mapping[str, object] = field(repr=False)
    torn: frozenset[str]
    from_outside: bool


def read_revoked(
    deployment: Deployment, session: Session, names: Collection[str]
) -> EndedRecord | None:
    """What the cookies of this request say of a session that was logged out; its parts `names`.

    None if they open a session, if they open none for any other reason, if the session continues
    under a new id, and without a store. It gives no session and writes nothing: a logout that came
    without the user's cookie reads here what only the cookie has. Raises StorageError.
    """
    loaded, revocations = session.load(), deployment.revocations
    if session.subject is not None or session.withheld is not None or revocations is None:
        return None
    if not isinstance(loaded, LoadedSession) or loaded.record is not None:
        return None
    for record in loaded.revoked_records:
        ending = revocations.ending(record.id)
        if ending is Ending.REPLACED:
            continue
        parts: dict[str, object] = {}
        for name in names:
            data = loaded.part_of(record, name)
            try:
                if data is not None:
                    parts[name] = cbor.decode(data)
            except MalformedRecord:
                deployment.emit("part-unreadable")
        listed = record.overflow.names if record.overflow else ()
        torn = frozenset(name for name in listed if name in names and name not in parts)
        is_from_outside = ending is not Ending.LOGGED_OUT
        return EndedRecord(record.id, record.subject, parts, torn, is_from_outside)
    return None


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
            part = core_part(part)
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
    info = SessionInfo(parts, sizes, candidates.foreign_bytes, room)
    if loaded.opened is None:
        return info
    record, sealed_at, key = loaded.opened
    idle = record.terms.idle or deployment.lifetimes.idle
    ends_at = record.ends_at(deployment.lifetimes)
    return replace(
        info,
        created_at=record.created_at,
        sealed_at=sealed_at,
        idle_expires_at=min(sealed_at + idle, ends_at),
        expires_at=ends_at,
        kid=key.kid.hex(),
        generation=record.generation,
    )

"""One logout: its state in the store, and which services are pending, notified or failed.

The progress is stored in a row of the store (`StoredProgress`) or, without a store, in the
session that is being ended (`SessionProgress`).

A row of the context ``sealedstate.sso.logout`` is named by BLAKE2b-192 of
LP("sealedstate/1", "sso.logout", realm, session id), as text (LP and the text
of a name are as in docs/format.md), and sealed like every stored value. It is the CBOR list of

    the format (1),
    the session's id,
    its subject, or null,
    the 16 random bytes of the token,
    when the row was written (epoch seconds),
    whether service logins may still be in the browser's cookie,
    the requests that the logout answers: each is the service, the NameID, its format (true
        for every format), name qualifier and SP name qualifier, and the list of SessionIndexes,
    the service logins, as `_codec.columns` encodes them, and
    one letter for each service login: r for pending, t for notified, f for failed. The
        logins are in ascending order of time, entityID, NameID, its format, name qualifier
        and SP name qualifier, and SessionIndex, where null comes before every text.

The row is written before its session is revoked, so that no crash loses a service that must
be notified. Every change is a checked write. The row stays, with nothing left to do, as long
as a cookie of the session could be presented again.

Notifying a service changes one letter. The encoded logins stay as they are, and are decoded
only if they are not those that the progress has decoded before: otherwise notifying n
services would cost n * n decodings.
"""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any, TypeAlias

from ..._stored.table import KEY_BYTES, Entry, Kind, Put
from ..._wire import cbor
from ..._wire.encoding import from_name, from_text, to_name, to_text
from ...deployment import Deployment
from ...errors import LoginsUnreadable, MalformedRecord, MalformedToken, UsageError
from ...session import Session, id_bytes
from .._codec.columns import encode_logins
from ..logins import NameID, ServiceLogin, StoredText, keep_latest, sort_key
from ..records import IdentifierDeriver, LoginRecords
from .index import LogoutRequest, matches

__all__ = ["LogoutProgress", "Notice"]

KIND = Kind("sealedstate.sso.logout", "sso.logout", "a logout")
FORMAT = 1
SECRET_BYTES = 16
PENDING, NOTIFIED, FAILED = b"rtf"

Identity: TypeAlias = tuple[str, NameID, StoredText | None]
"""(entityID, NameID, SessionIndex) of a service login."""


@dataclass(frozen=True, slots=True)
class LoginList:
    """Service logins with all identifiers, in the order of the row's letters.

    `positions` has the place of each login. `columns`: the logins as the row has them; None if
    they are not encoded yet.
    """

    logins: tuple[ServiceLogin, ...] = field(default=(), repr=False)
    positions: Mapping[Identity, int] = field(default_factory=dict, repr=False, compare=False)
    columns: bytes | None = field(default=None, repr=False, compare=False)


def sort_logins(logins: Iterable[ServiceLogin], columns: bytes | None = None) -> LoginList:
    """Bring logins into the order of the row."""
    ordered = tuple(sorted(logins, key=sort_key))
    return LoginList(ordered, {login.identity: at for at, login in enumerate(ordered)}, columns)


@dataclass(frozen=True, slots=True)
class LogoutState:
    """What is known of one logout. `status` has a letter for each of `logins`.

    `pending_in_cookie`: the browser's cookie may hold service logins that are not in `logins`.
    `requests`: what services asked for; they need not be notified. `written_at`: epoch seconds.
    """

    session_id: bytes = field(repr=False)
    subject: str | None = field(repr=False)
    secret: bytes = field(repr=False)
    pending_in_cookie: bool
    requests: tuple[LogoutRequest, ...] = field(default=(), repr=False)
    login_list: LoginList = field(default=LoginList(), repr=False)
    status: bytes = b""
    written_at: int = field(default=0, compare=False)

    @property
    def logins(self) -> tuple[ServiceLogin, ...]:
        return self.login_list.logins

    @property
    def is_settled(self) -> bool:
        """Whether no service is pending, and none can turn up in a cookie."""
        return PENDING not in self.status and not self.pending_in_cookie

    def which(self, status: int) -> tuple[ServiceLogin, ...]:
        pairs = zip(self.logins, self.status, strict=True)
        return tuple(login for login, letter in pairs if letter == status)

    def restart(self) -> LogoutState:
        """The same logins, as if no service had been notified or had asked."""
        pending = bytes([PENDING]) * len(self.logins)
        return replace(self, pending_in_cookie=True, requests=(), status=pending)

    def with_subject(self, subject: str) -> LogoutState:
        """With this subject; then the logins must be encoded again, relative to it."""
        return replace(self, subject=subject, login_list=replace(self.login_list, columns=None))

    def add(self, logins: Iterable[ServiceLogin]) -> LogoutState:
        """With further logins. A login that a request matches counts as notified."""
        letters = dict(zip(self.login_list.positions, self.status, strict=True))
        new = [login for login in keep_latest(logins) if login.identity not in letters]
        if not new:
            return self
        for login in new:
            is_requested = any(matches(login, request) for request in self.requests)
            letters[login.identity] = NOTIFIED if is_requested else PENDING
        merged = sort_logins((*self.logins, *new))
        return replace(
            self, login_list=merged, status=bytes(map(letters.__getitem__, merged.positions))
        )

    def mark_requested(self, request: LogoutRequest) -> LogoutState:
        """With one more request of a service, which then need not be notified."""
        if request in self.requests:
            return self
        asking = [login.identity for login in self.logins if matches(login, request)]
        return replace(self, requests=(*self.requests, request)).mark(asking, NOTIFIED)

    def mark(self, identities: Iterable[Identity], status: int) -> LogoutState:
        """With another letter for some logins, unless they were notified."""
        letters, positions = bytearray(self.status), self.login_list.positions
        for identity in identities:
            position = positions.get(identity)
            if position is not None and letters[position] != NOTIFIED:
                letters[position] = status
        return replace(self, status=bytes(letters))


Change: TypeAlias = Callable[[LogoutState | None], LogoutState | None]


class LogoutTable:
    """The logouts of one deployment.

    Reading and changing them raises StorageError, and LoginsUnreadable if this node lacks the
    registry or a key for the service logins.
    """

    def __init__(self, deployment: Deployment, records: LoginRecords) -> None:
        self._deployment, self._records = deployment, records
        self._table = deployment.table(KIND)

    def create_state(
        self, session_id: bytes, subject: str | None, *, pending_in_cookie: bool
    ) -> LogoutState:
        """A state without logins, with the secret of a new token."""
        secret = self._deployment.random(SECRET_BYTES)
        return LogoutState(session_id, subject, secret, pending_in_cookie)

    def key(self, session_id: bytes) -> str:
        """The name of a session's row."""
        return self._table.key(session_id)

    def list_keys(self) -> Iterator[str]:
        return self._table.keys()

    def read(self, key: str) -> LogoutState | None:
        """What is known of a logout; None without a row that a node can open."""
        entry = self._table.read(key)
        return None if entry is None else self._decode(entry.value, None)

    def find(self, token: str) -> LogoutState | None:
        """What is known of the logout that a token leads back to; None for any other text."""
        try:
            data = from_text(token)
        except MalformedToken:
            return None
        key, secret = data[:KEY_BYTES], data[KEY_BYTES:]
        state = self.read(to_name(key)) if len(secret) == SECRET_BYTES else None
        # The row's name can be computed from the session's id; the secret cannot.
        return state if state and hmac.compare_digest(state.secret, secret) else None

    def change_existing(
        self,
        session_id: bytes,
        change: Callable[[LogoutState], LogoutState],
        known: LogoutState | None = None,
    ) -> LogoutState | None:
        """As `change`, if the session has a row; None without."""
        return self.change(
            session_id, lambda state: None if state is None else change(state), known
        )

    def change(
        self, session_id: bytes, change: Change, known: LogoutState | None = None
    ) -> LogoutState | None:
        """Write what `change` makes of a session's row; again if another node was faster.

        `change` may return None, or the same state, to leave the row alone. `known`: a state of
        this row; its logins are used as long as the row has the same. Returns the state as it is
        now.
        """
        deployment = self._deployment
        after: LogoutState | None = None

        def update(entry: Entry | None) -> Put | None:
            nonlocal after
            before: LogoutState | None = None
            # When every cookie of the session has expired, as for its revocation.
            lifetime = deployment.longest_lifetime() + 2 * deployment.settings.skew
            expires_at: int | None = (int(deployment.now()) + lifetime) * 1000
            # A row that no node can open was swapped or rolled back, and is written again.
            if entry is not None and entry.error is None:
                before, expires_at = self._decode(entry.value, known), entry.expires_at
            after = change(before)
            if after is None or after == before:
                return None
            if after.login_list.columns is None:
                subject, keys = after.subject or "", self._records.identifiers
                deriver = IdentifierDeriver(after.session_id, subject, keys)
                compact = map(deriver.compact, after.logins)
                columns = encode_logins(compact, self._records.registry)
                after = replace(after, login_list=replace(after.login_list, columns=columns))
            return Put(self._encode(after), expires_at)

        self._table.change(self.key(session_id), update)
        return after

    def delete(self, session_id: bytes) -> None:
        """Forget a logout that did not come about."""
        self._table.delete(self.key(session_id))

    def _encode(self, state: LogoutState) -> bytes:
        requests: list[object] = []
        for request in state.requests:
            value, form, *qualifiers = astuple(request.name_id)
            if form is None and request.any_format:
                form = True
            indexes = list(request.session_indexes)
            requests.append([request.entity_id, value, form, *qualifiers, indexes])
        return cbor.encode(
            [
                FORMAT,
                state.session_id,
                state.subject,
                state.secret,
                int(self._deployment.now()),
                state.pending_in_cookie,
                requests,
                state.login_list.columns,
                state.status,
            ]
        )

    def _decode(self, data: bytes, known: LogoutState | None) -> LogoutState:
        try:
            row: Any = cbor.decode(data)
        except MalformedRecord:
            row = None
        if type(row) is not list or len(row) != 9 or row[0] != FORMAT:
            raise LoginsUnreadable("a logout was written by another release")
        _, session_id, subject, secret, written_at, pending, requests, columns, status = row
        whose = (session_id, subject, columns)
        if known and (known.session_id, known.subject, known.login_list.columns) == whose:
            logins = known.login_list
        else:
            decoded = self._records.read_logins(columns, session_id, subject or "")
            logins = sort_logins(decoded, columns)
        asked: list[LogoutRequest] = []
        for entity_id, value, form, *qualifiers, indexes in requests:
            is_any = form is True  # as `_encode` writes it
            name_id = NameID(value, None if is_any else form, *qualifiers)
            asked.append(LogoutRequest(entity_id, name_id, tuple(indexes), any_format=is_any))
        return LogoutState(
            session_id, subject, secret, pending, tuple(asked), logins, status, written_at
        )


# The part of a session without a store that holds the services whose notification failed.
FAILED_PART = "sealedstate.logout"


@dataclass(frozen=True, slots=True)
class Notice:
    """What one service must learn: `name_id` is logged out, in `session_index`."""

    entity_id: str
    name_id: NameID
    session_index: str | None = field(repr=False)


def make_notices(logins: Iterable[ServiceLogin]) -> tuple[Notice, ...]:
    """The notices for service logins, which have all identifiers."""
    return tuple(
        Notice(
            login.entity_id,
            login.name_id,
            None if login.session_index is None else str(login.session_index),
        )
        for login in logins
    )


class LogoutProgress(ABC):
    """The services of one session, and which of them were notified.

    Every change is stored at once, so that another node, another request or the next start can
    continue. After a crash between notifying a service and storing that, the service is notified
    twice.
    """

    def __init__(self, state: LogoutState) -> None:
        self._state = state

    def __iter__(self) -> Iterator[Notice]:
        return iter(self.remaining)

    @property
    def token(self) -> str:
        """Leads back to this logout from another request: 54 of ``A-Za-z0-9*_``.

        For RelayState, say. Empty without a store, where the session leads back.
        """
        return ""

    @property
    def is_revoked(self) -> bool:
        """Whether every node refuses the session from now on; False without a store."""
        return False

    @property
    def remaining(self) -> tuple[Notice, ...]:
        """The services that are pending, the earliest login first."""
        return make_notices(self._state.which(PENDING))

    @property
    def failures(self) -> tuple[Notice, ...]:
        """The services whose notification failed."""
        return make_notices(self._state.which(FAILED))

    @property
    def pending_in_cookie(self) -> bool:
        """Whether the browser's cookie may hold further service logins.

        Their services are notified at its next request, see `SingleLogout.pending`.
        """
        return self._state.pending_in_cookie

    @property
    def is_partial(self) -> bool:
        """Whether the notification of some service failed."""
        return FAILED in self._state.status

    @property
    def is_complete(self) -> bool:
        """Whether no service is pending."""
        return self._state.is_settled

    def notified(self, *notices: Notice) -> None:
        """Record that these services were notified. Raises StorageError."""
        self._mark_notices(notices, NOTIFIED)

    def failed(self, *notices: Notice) -> None:
        """Record that the notification of these services failed. Raises StorageError.

        The logout is partial then, unless the services are notified later.
        """
        self._mark_notices(notices, FAILED)

    def __repr__(self) -> str:
        pending, all_logins = self._state.status.count(PENDING), self._state.logins
        return f"<LogoutProgress: {pending} of {len(all_logins)} services remain>"

    def _mark_notices(self, notices: Iterable[Notice], status: int) -> None:
        identities = [(one.entity_id, one.name_id, one.session_index) for one in notices]
        if not all(identity in self._state.login_list.positions for identity in identities):
            raise UsageError("a notice belongs to another logout")
        self._mark(identities, status)

    @abstractmethod
    def _mark(self, identities: Sequence[Identity], status: int) -> None: ...


class StoredProgress(LogoutProgress):
    """The progress of a logout that has a row in the store."""

    def __init__(self, table: LogoutTable, state: LogoutState) -> None:
        super().__init__(state)
        self._table = table

    @property
    def is_revoked(self) -> bool:
        return True

    @property
    def token(self) -> str:
        return to_text(from_name(self._table.key(self._state.session_id)) + self._state.secret)

    def _mark(self, identities: Sequence[Identity], status: int) -> None:
        known = self._state
        state = self._table.change_existing(
            known.session_id, lambda found: found.mark(identities, status), known
        )
        # A row that is gone has expired: no cookie of its session is accepted any more.
        self._state = known.mark(identities, status) if state is None else state


class SessionProgress(LogoutProgress):
    """The progress of a logout without a store, in two parts of its session.

    The pending services are the session's login records, and FAILED_PART has the failed ones. The
    session ends when no service is pending.
    """

    def __init__(self, records: LoginRecords, session: Session) -> None:
        self._records, self._session = records, session
        subject = session.subject or ""
        session_id = id_bytes(session)
        failed = records.read_logins(session[FAILED_PART], session_id, subject)
        state = LogoutState(session_id, session.subject, b"", pending_in_cookie=False)
        state = state.add(failed).mark([login.identity for login in failed], FAILED)
        super().__init__(state.add(records.for_session(session).services()))

    def _mark(self, identities: Sequence[Identity], status: int) -> None:
        before, marked = self._state, set(identities)
        self._state = before.mark(identities, status)
        login = self._records.for_session(self._session)
        for one in before.which(PENDING):
            if one.identity in marked:
                login.remove_service(one)
        failed = encode_logins(self._state.which(FAILED), self._records.registry)
        self._session[FAILED_PART] = failed
        if self._state.is_settled:
            self._session.invalidate()

    def begin(self, request: LogoutRequest | None) -> None:
        """Store the progress. The service that asked for the logout need not be notified."""
        state = self._state if request is None else self._state.mark_requested(request)
        self._mark([login.identity for login in state.which(NOTIFIED)], NOTIFIED)

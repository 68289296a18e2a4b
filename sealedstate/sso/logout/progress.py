"""One logout under way: which services are pending, which were notified, and which failed.

The progress is stored in a row of the store (`StoredProgress`) or, without a store, in the
session that is being ended (`SessionProgress`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..._stored.table import KEY_BYTES
from ..._wire.encoding import from_text, to_text
from ...errors import MalformedToken, UsageError
from ...session import Session
from .._codec.columns import encode_logins
from ..logins import NameID, ServiceLogin
from ..records import LoginRecords
from ._state import FAILED, NOTIFIED, PENDING, SECRET_BYTES, Identity, LogoutState, LogoutTable
from .index import LogoutRequest

__all__ = ["LogoutProgress", "Notice"]

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


class ProgressStore(Protocol):
    """Where the progress of one logout is stored."""

    @property
    def state(self) -> LogoutState: ...

    @property
    def token(self) -> str: ...

    @property
    def is_revoked(self) -> bool: ...

    def mark(self, identities: Sequence[Identity], status: int) -> None: ...


class LogoutProgress:
    """The services of one session, and which of them were notified.

    Every change is stored at once, so that another node, another request or the next start can
    continue. After a crash between notifying a service and storing that, the service is notified
    twice.
    """

    def __init__(self, store: ProgressStore) -> None:
        self._store = store

    def __iter__(self) -> Iterator[Notice]:
        return iter(self.remaining)

    @property
    def token(self) -> str:
        """Leads back to this logout from another request: 54 of ``A-Za-z0-9._``.

        For RelayState, say. Empty without a store, where the session leads back.
        """
        return self._store.token

    @property
    def is_revoked(self) -> bool:
        """Whether every node refuses the session from now on; False without a store."""
        return self._store.is_revoked

    @property
    def remaining(self) -> tuple[Notice, ...]:
        """The services that are pending, the earliest login first."""
        return make_notices(self._store.state.which(PENDING))

    @property
    def failures(self) -> tuple[Notice, ...]:
        """The services whose notification failed."""
        return make_notices(self._store.state.which(FAILED))

    @property
    def pending_in_cookie(self) -> bool:
        """Whether the browser's cookie may hold further service logins.

        Their services are notified at its next request, see `SingleLogout.pending`.
        """
        return self._store.state.pending_in_cookie

    @property
    def is_partial(self) -> bool:
        """Whether the notification of some service failed."""
        return FAILED in self._store.state.status

    @property
    def is_complete(self) -> bool:
        """Whether no service is pending."""
        return self._store.state.is_settled

    def notified(self, *notices: Notice) -> None:
        """Record that these services were notified. Raises StorageError."""
        self._mark(notices, NOTIFIED)

    def failed(self, *notices: Notice) -> None:
        """Record that the notification of these services failed. Raises StorageError.

        The logout is partial then, unless the services are notified later.
        """
        self._mark(notices, FAILED)

    def __repr__(self) -> str:
        state = self._store.state
        pending = state.status.count(PENDING)
        return f"<LogoutProgress: {pending} of {len(state.logins)} services remain>"

    def _mark(self, notices: Iterable[Notice], status: int) -> None:
        identities = [(one.entity_id, one.name_id, one.session_index) for one in notices]
        if not self._store.state.knows_all(identities):
            raise UsageError("a notice belongs to another logout")
        self._store.mark(identities, status)


class StoredProgress:
    """The progress of a logout that has a row in the store."""

    is_revoked = True

    def __init__(self, table: LogoutTable, state: LogoutState) -> None:
        self._table = table
        self.state = state

    @property
    def token(self) -> str:
        return to_text(from_text(self._table.key(self.state.session_id)) + self.state.secret)

    def mark(self, identities: Sequence[Identity], status: int) -> None:
        def change(state: LogoutState | None) -> LogoutState | None:
            return None if state is None else state.mark(identities, status)

        known = self.state
        state = self._table.change(self._table.key(known.session_id), change, known)
        # A row that is gone has expired: no cookie of its session is accepted any more.
        self.state = known.mark(identities, status) if state is None else state


class SessionProgress:
    """The progress of a logout without a store, in two parts of its session.

    The pending services are the session's login records, and FAILED_PART has the failed ones. The
    session ends when no service is pending.
    """

    is_revoked = False
    token = ""

    def __init__(self, records: LoginRecords, session: Session) -> None:
        self._records, self._session = records, session
        subject = session.subject or ""
        failed = records.read_logins(session[FAILED_PART], session.raw_id, subject)
        state = LogoutState(session.raw_id, session.subject, b"", pending_in_cookie=False)
        state = state.add(failed).mark([login.identity for login in failed], FAILED)
        self.state = state.add(records.for_session(session).services())

    def mark(self, identities: Sequence[Identity], status: int) -> None:
        before, marked = self.state, set(identities)
        self.state = before.mark(identities, status)
        login = self._records.for_session(self._session)
        for one in before.which(PENDING):
            if one.identity in marked:
                login.remove_service(one)
        failed = encode_logins(self.state.which(FAILED), self._records.registry)
        self._session[FAILED_PART] = failed
        self.end_if_settled()

    def mark_requested(self, request: LogoutRequest) -> None:
        """Record a service that asked for the logout, and need not be notified."""
        asking = self.state.mark_requested(request).which(NOTIFIED)
        self.mark([login.identity for login in asking], NOTIFIED)

    def end_if_settled(self) -> None:
        """End the session if no service is pending."""
        if self.state.is_settled:
            self._session.invalidate()


def parse_token(token: str) -> tuple[str, bytes]:
    """The row's name and the secret of a token. Raises MalformedToken."""
    data = from_text(token)
    if len(data) != KEY_BYTES + SECRET_BYTES:
        raise MalformedToken
    return to_text(data[:KEY_BYTES]), data[KEY_BYTES:]

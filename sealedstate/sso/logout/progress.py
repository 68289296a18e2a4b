"""A logout under way: whom to tell still, who was told, who could not be told.

Knows notices and two places where they are kept: a row of the store, or without a store the session
itself. Does not know how a session is ended, nor how a service is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..._wire.encoding import from_text, to_text
from ...errors import MalformedToken, UsageError
from ...session import Session
from .._codec.columns import encode_logins
from ..logins import NameID, ServiceLogin
from ..records import LoginRecords
from .index import LogoutRequest
from .state import FAILED, NAME_BYTES, REMAINS, SECRET_BYTES, TOLD, Identity, Ledger, State

# In a session that is being left, where there is no store: the services that could not be told.
FAILED_PART = "sealedstate.logout"


@dataclass(frozen=True, slots=True)
class Notice:
    """What one service is to be told: that `name_id` is logged out there, in `session_index`."""

    entity_id: str
    name_id: NameID
    session_index: str | None = field(repr=False)


class Kept(Protocol):
    """Where the progress of one logout is kept."""

    @property
    def token(self) -> str: ...

    @property
    def revoked(self) -> bool: ...

    def state(self) -> State: ...

    def mark(self, identities: Sequence[Identity], standing: int) -> None: ...


class LogoutProgress:
    """The services of one session that still have to be told, and those that were.

    What was told is kept at once, so that another node, another request or the next start goes on
    from there. A crash between telling and keeping it tells a service twice, never not at all.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def __iter__(self) -> Iterator[Notice]:
        return iter(self.remaining)

    @property
    def token(self) -> str:
        """Leads back here from another request: 54 of ``A-Za-z0-9._``, for RelayState, say.

        Empty without a store, where the session leads back.
        """
        return self._kept.token

    @property
    def revoked(self) -> bool:
        """Whether the session is refused from now on; False without a store."""
        return self._kept.revoked

    @property
    def remaining(self) -> tuple[Notice, ...]:
        """Whom to tell still, the earliest login first."""
        return notices(self._kept.state().which(REMAINS))

    @property
    def failures(self) -> tuple[Notice, ...]:
        """Who could not be told."""
        return notices(self._kept.state().which(FAILED))

    @property
    def owed(self) -> bool:
        """Whether service logins may stand in the browser's cookie that nobody has read yet.

        Then they are told at its next request, see `SingleLogout.owed`.
        """
        return self._kept.state().owed

    @property
    def partial(self) -> bool:
        """Whether some service could not be told."""
        return bool(self.failures)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.remaining or self.owed)

    def told(self, *notices: Notice) -> None:
        """These services know. Raises StorageError when that could not be kept."""
        self._mark(notices, TOLD)

    def failed(self, *notices: Notice) -> None:
        """These could not be told: the logout is partial, unless they are `told` later.

        Raises StorageError.
        """
        self._mark(notices, FAILED)

    def __repr__(self) -> str:
        state = self._kept.state()
        return f"<LogoutProgress: {len(self.remaining)} of {len(state.logins)} services remain>"

    def _mark(self, whom: Iterable[Notice], standing: int) -> None:
        identities = [(one.entity_id, one.name_id, one.session_index) for one in whom]
        if not self._kept.state().knows_all(identities):
            raise UsageError("a notice that is none of this logout's")
        self._kept.mark(identities, standing)


class KeptInStore:
    """In a row of the store."""

    revoked = True

    def __init__(self, ledger: Ledger, state: State) -> None:
        self._ledger, self._state = ledger, state

    @property
    def token(self) -> str:
        name = from_text(self._ledger.name(self._state.session_id))
        return to_text(name + self._state.secret)

    def state(self) -> State:
        return self._state

    def mark(self, identities: Sequence[Identity], standing: int) -> None:
        name = self._ledger.name(self._state.session_id)
        known = self._state.marked(identities, standing)
        found = self._ledger.change(
            name, lambda state: None if state is None else state.marked(identities, standing)
        )
        # A row that is gone is one whose time is over.
        self._state = known if found is None else found


class KeptInSession:
    """In the session that is being left, without a store: who remains, and who failed.

    The session ends with the last of them.
    """

    revoked = False
    token = ""

    def __init__(self, records: LoginRecords, session: Session, now: float) -> None:
        self._records, self._session, self._now = records, session, now
        self._state = self._found()

    def state(self) -> State:
        return self._state

    def mark(self, identities: Sequence[Identity], standing: int) -> None:
        before = self._state
        self._state = before.marked(identities, standing)
        login = self._records.for_session(self._session)
        for one in before.which(REMAINS):
            if one.identity in identities:
                login.remove_service(one)
        failed = encode_logins(self._state.which(FAILED), self._records.registry)
        self._session[FAILED_PART] = failed
        self.end_if_done()

    def asked_by(self, request: LogoutRequest) -> None:
        """A service that asked need not be told."""
        asking = self._state.asked_by(request)
        self.mark([one.identity for one in asking.which(TOLD)], TOLD)

    def end_if_done(self) -> None:
        """End the session when nobody is left to be told."""
        if not self._state.which(REMAINS):
            self._session.invalidate()

    def _found(self) -> State:
        session, records = self._session, self._records
        state = State(session.raw_id, session.subject, b"", owed=False)
        failed = records.read_logins(session[FAILED_PART], session.raw_id, session.subject or "")
        state = state.joined(failed).marked([one.identity for one in failed], FAILED)
        return state.joined(records.for_session(session).services())


def parted(token: str) -> tuple[str, bytes]:
    """The row's name and the secret in a token. Raises MalformedToken for what is no token."""
    whole = from_text(token)
    if len(whole) != NAME_BYTES + SECRET_BYTES:
        raise MalformedToken
    return to_text(whole[:-SECRET_BYTES]), whole[-SECRET_BYTES:]


def notices(logins: Iterable[ServiceLogin]) -> tuple[Notice, ...]:
    """What to tell the services of these logins, which have all their texts."""
    return tuple(
        Notice(
            login.entity_id,
            login.name_id,
            None if login.session_index is None else str(login.session_index),
        )
        for login in logins
    )

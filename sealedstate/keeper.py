"""Load and save, and when there is something to save.

    Cookie header -> candidates by exact name -> open the core -> decode -> expiry, revocation
       -> overflow joined and opened, spilled parts recalled, only if somebody reads such a part
    changed? -> plan placement against the budget -> write spilled parts -> seal -> chunk
       -> Set-Cookie lines, and deletions for what is no longer used

`visit` is the first arrow's way and `saving` the second's; `toolkit` is what both hold. Does not
know WSGI or any framework: it takes a Cookie header and gives Set-Cookie lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from ._request.load import LoadedSession
from ._request.save import Saving, core_line, tell_not_saved
from ._stored.revocations import Ending
from ._wire.record import check_subject
from .deployment import Deployment
from .errors import (
    ConfigurationError,
    NoPrimaryKey,
    OperatorError,
    SessionTooLarge,
    StorageError,
    StorageUnavailable,
    UncheckedSession,
    UnreadableError,
)
from .hooks import SessionHooks
from .session import Session
from .settings import Settings


class Keeper:
    """Opens and saves the sessions of one application.

    Asks its store once, within the store's timeout. Raises ConfigurationError when that does not
    meet the needs of what would be kept in it, and
    `Settings.accept_weak_store_for` does not accept that.
    """

    def __init__(self, deployment: Deployment | Settings) -> None:
        self._tools = (
            deployment if isinstance(deployment, Deployment) else Deployment.open(deployment)
        )
        self.settings = self._tools.settings

    @property
    def counts(self) -> Counter[str]:
        """How often what happened: `opened`, `saved`, `refused-<reason>`, and so on."""
        return self._tools.events.counts

    def session(self, cookie_header: str = "") -> Session:
        """The session of a request with this Cookie header, opened when somebody looks at it."""
        session, visit = Session(), LoadedSession()
        session.visit, visit.toolkit, visit.header = visit, self._tools, cookie_header
        return session

    def save(self, session: Session, other_bytes: int = 0) -> list[str]:
        """The Set-Cookie field values that make the browser carry `session` as it is now.

        `other_bytes`: what the response's other Set-Cookie fields take, names included. The list is
        empty for a session that nobody touched, that did not change and needs no refresh, or that
        is withheld. Raises SessionTooLarge, StorageError or NoPrimaryKey; the browser then keeps
        what it has.
        """
        visit = session.visit
        if not session.touched or not isinstance(visit, LoadedSession):
            return []
        changed, core = session.standing()
        if not changed:
            return self._refreshed(session, core, visit, other_bytes)
        if visit.withheld is not None and not (session.signed_in or session.renewed):
            self._tools.emit("not-sent", reason=visit.withheld)
            return []
        # A sign-in does not bring the old session back, it replaces it.
        is_another = session.ended or session.signed_in or self._tools.revocations is None
        if not is_another and self._revoked_meanwhile(visit):
            tell_not_saved(self._tools, session, visit)
            return []
        if not core and session.subject is None and not session.parts:
            # A new id for nobody is no reason to delete what could not be judged.
            saving = Saving(self._tools, session, visit, other_bytes)
            return saving.deletions() if visit.withheld is None else []
        return self._lines(session, core, visit, other_bytes)

    def revoke_subject(self, subject: str) -> None:
        """Sign out every session of `subject` that began until now, on every node.

        Raises ConfigurationError without a store or a lookup key, StorageError or NoPrimaryKey when
        it could not be recorded.
        """
        tools, now = self._tools, self._tools.now()
        if tools.revocations is None:
            raise ConfigurationError("revoking by subject needs a storage service")
        check_subject(subject)
        settings = self.settings
        expires_at = int(now) + settings.absolute_lifetime + settings.skew
        tools.revocations.revoke_subject(subject, expires_at)
        tools.emit("subject-revoked")
        tools.hooks.after_revoke_subject(subject, now)

    def revoke_session(self, session_id: bytes) -> bool:
        """Refuse the session with this id (16 bytes, `Session.raw_id`) from now on, on every node.

        Its cookie need not be there. False when it was refused already. Raises ConfigurationError
        without a store, StorageError or NoPrimaryKey when it could not be recorded.
        """
        tools, settings, now = self._tools, self.settings, self._tools.now()
        if tools.revocations is None:
            raise ConfigurationError("revoking a session needs a storage service")
        # It may have begun as late as now, by a clock that is ahead.
        until = int(now) + settings.absolute_lifetime + 2 * settings.skew
        if settings.legacy is not None:
            until = max(until, int(settings.legacy.until.timestamp()) + settings.skew)
        first = tools.revocations.revoke(session_id, until, Ending.REVOKED)
        tools.emit("revoked", session_id=session_id)
        tools.hooks.after_revoke(session_id, now)
        return first

    def attach(self, follower: SessionHooks, uses: Sequence[str] = ()) -> None:
        """Let `follower` be told of saves and revocations from now on.

        `uses`: titles of what it keeps in the store. Raises ConfigurationError when that does not
        meet their needs, or when there is none.
        """
        if uses:
            self._tools.require(*uses)
        self._tools.hooks.all.append(follower)

    @property
    def deployment(self) -> Deployment:
        """For what is built on sessions, such as `sealedstate.sso`."""
        return self._tools

    def health(self) -> dict[str, OperatorError | None]:
        """What requests depend on, and what is wrong with each, or None.

        ``keys``: can a session be sealed now? ``store``, where there is one: does it answer? It is
        asked each time, and takes as long as its timeout lets it.
        """
        tools, store = self._tools, self._tools.store
        found = {"keys": _problem(lambda: tools.keyring().primary(int(tools.now())))}
        if store is not None:
            found["store"] = _problem(store.ping)
            if found["store"] is None:
                tools.notice_answer()
        return found

    def _lines(
        self,
        session: Session,
        core: dict[str, bytes] | None,
        visit: LoadedSession,
        other_bytes: int,
    ) -> list[str]:
        """Saved the short way where that is enough; `core` as `Session.standing` gives it."""
        line = core_line(self._tools, session, core, visit, other_bytes)
        return [line] if line else Saving(self._tools, session, visit, other_bytes).lines()

    def _refreshed(
        self,
        session: Session,
        core: dict[str, bytes] | None,
        visit: LoadedSession,
        other_bytes: int,
    ) -> list[str]:
        """The same session sealed anew, where that is due and possible; else nothing."""
        try:
            if not self._refresh_due(visit) or self._revoked_meanwhile(visit):
                return []
            return self._lines(session, core, visit, other_bytes)
        except (NoPrimaryKey, SessionTooLarge, StorageError):
            # Nobody asked for this write: the session goes on as it is.
            self._tools.emit("refresh-skipped")
            return []

    def _refresh_due(self, visit: LoadedSession) -> bool:
        opened, now = visit.opened, int(self._tools.now())
        if opened is None:
            return visit.adopted is not None  # an old session is to leave sealed
        age, refresh = now - opened.sealed_at, self._tools.lifetimes.refresh
        if opened.key.kid != self._tools.keyring().primary(now).kid:
            # All sessions of a retired key move to the new one, but not all at the same moment.
            refresh = 1 + int(refresh * _share(opened.record.id))
        return age >= refresh

    def _revoked_meanwhile(self, visit: LoadedSession) -> bool:
        """Whether the session was logged out while this request ran: it must not come back."""
        record = visit.record or visit.adopted
        if record is None or self._tools.revocations is None:
            return False
        try:
            visit.check_revoked(record)
        except UncheckedSession as error:
            raise StorageUnavailable("the session was not saved: is it logged out?") from error
        except UnreadableError as error:
            self._tools.emit("not-sent", session_id=record.id, reason=error.reason)
            return True
        return False


def _problem(attempt: Callable[[], object]) -> OperatorError | None:
    try:
        attempt()
    except OperatorError as error:
        return error
    return None


def _share(session_id: bytes) -> float:
    """A session's own number between 0 and 1: its id is random."""
    return int.from_bytes(session_id[:4], "big") / (1 << 32)

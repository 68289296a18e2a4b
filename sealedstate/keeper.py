"""Loads and saves sessions.

    Cookie header -> candidates by exact name -> open the core -> decode -> expiry, revocation
       -> overflow and spilled parts, only when such a part is read
    changed? -> plan the placement within the budget -> write spilled parts -> seal
       -> Set-Cookie lines, and deletions of cookies that are no longer used

The keeper decides whether a session is saved, `_request` how. It takes a Cookie header and returns
Set-Cookie lines, so it works under any framework.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from ._cookies.header import merge_lines
from ._request.load import LoadedSession, SessionInfo, describe_session, revoke_id
from ._request.save import (
    Limits,
    Outcome,
    Saved,
    check_size,
    delete_cookies,
    is_unproven,
    report_not_saved,
    save,
)
from ._wire.record import check_subject, parse_id
from .deployment import Deployment, log
from .errors import (
    ConfigurationError,
    HeldBackCookie,
    NoPrimaryKey,
    OperatorError,
    SessionTooLarge,
    StorageError,
    StorageUnavailable,
    UncheckedSession,
    UnreadableError,
    UnsupportedValue,
    UsageError,
    quote_text,
)
from .hooks import SessionHooks
from .session import Session
from .settings import Settings

__all__ = ["Keeper", "Outcome", "Saved"]

# In Python 3.11, looking up a member of an enumeration costs as much as encoding a value.
_SAVED, _UNCHANGED = Outcome.SAVED, Outcome.UNCHANGED
_LOCAL_HOST = re.compile(r"(?:.*\.)?localhost\.?|127(?:\.[0-9]+){3}|\[::1\]|::1", re.IGNORECASE)


class Keeper:
    """Opens and saves the sessions of one application.

    Settings are opened as by `Deployment.open`, with its errors. Nothing is read from the
    environment unless they say so.
    """

    def __init__(self, deployment: Deployment | Settings) -> None:
        if isinstance(deployment, Settings):
            deployment = Deployment.open(deployment)
        if not isinstance(deployment, Deployment):
            raise ConfigurationError(
                "keeper: expected Settings, such as Settings.from_env(), or a Deployment,"
                f" got {type(deployment).__name__}"
            )
        self._deployment = deployment
        self._limits = Limits.of(deployment)
        self._subject_key = deployment.settings.subject_key
        self._is_scheme_noted = False
        size_check = partial(check_size, self._limits, deployment.now)
        self._load = partial(LoadedSession, deployment, size_check)
        self._load_cross_site = partial(self._load, cross_site=True)

    @property
    def deployment(self) -> Deployment:
        """What the application has open."""
        return self._deployment

    @property
    def settings(self) -> Settings:
        """The settings of the deployment."""
        return self._deployment.settings

    @property
    def counts(self) -> Counter[str]:
        """How often each event happened: `opened`, `saved`, `refused-<reason>`, and so on."""
        return self._deployment.events.counts

    def session(self, cookie_header: str = "", cross_site: bool = False) -> Session:
        """The session of a request with this Cookie header, opened at its first use.

        `cross_site`: what `is_cross_site` says of the request. If it then brings no session cookie,
        only a sign-in is sent: another session could replace the login that the browser held back.
        """
        return Session(self._load_cross_site if cross_site else self._load, cookie_header)

    def is_cross_site(self, method: str, fetch_site: str | None, origin: str | None = None) -> bool:
        """Whether browsers hold our cookies back from such a request, by their SameSite.

        `fetch_site` and `origin`: its headers Sec-Fetch-Site and Origin. Origin only counts in a
        request without Sec-Fetch-Site, and if the setting `origins` lists those of the application.
        """
        settings = self.settings
        if settings.same_site == "None" or (
            settings.same_site == "Lax" and method in ("GET", "HEAD", "OPTIONS", "TRACE")
        ):
            return False
        if fetch_site is not None:
            return fetch_site == "cross-site"
        return bool(settings.origins) and origin is not None and origin not in settings.origins

    def owns(self, session: Session) -> bool:
        """Whether `session` came from this keeper."""
        loader = session.loader
        loader = getattr(loader, "load", loader)  # an AsyncKeeper's
        return loader is self._load or loader is self._load_cross_site

    def load(self, session: Session, parts: Collection[str] | None = None) -> None:
        """Open a session and recall its stored `parts` (None: all), without using it.

        For adapters that load before the application runs: the response does not depend on the
        cookie because of that. What the store does not answer is raised where a part is read.
        """
        session.load_ahead(parts)

    def asks_store(self, cookie_header: str) -> bool:
        """Whether opening the session of this Cookie header may ask a store, also a former one."""
        if self._deployment.store is not None:
            return self.may_bring_session(cookie_header)
        legacy = self.settings.legacy
        return legacy is not None and legacy.fetch is not None and legacy.name in cookie_header

    def may_bring_session(self, cookie_header: str) -> bool:
        """Whether this Cookie header may contain a session, or one of a former framework."""
        legacy = self.settings.legacy
        return self._deployment.cookies.name in cookie_header or (
            legacy is not None and legacy.name in cookie_header
        )

    def is_save_due(self, session: Session, *, force: bool = False) -> bool:
        """Whether `save` has something to write or to seal, for which it may ask the store.

        For adapters that save in a thread only where that is needed. Raises NoPrimaryKey.
        """
        loaded = session.backend
        if loaded is None:
            return session.accessed  # it was saved before
        if not isinstance(loaded, LoadedSession):
            return False
        if self._subject_key is not None:
            session.follow_subject(self._subject_key)
        if force or (session.is_touched and session.changes().is_modified):
            return True
        record = loaded.record
        has_brief_rows = record is not None and bool(record.spilled) and is_unproven(record)
        return not session.is_peeked and (has_brief_rows or self._is_refresh_due(loaded))

    def save(self, session: Session, other_bytes: int = 0, *, force: bool = False) -> Saved:
        """The Set-Cookie field values that make the browser carry `session` as it is now.

        `other_bytes`: what the response's other Set-Cookie fields take, names included. `force`:
        seal the session again although it did not change. The result is a list, with the `outcome`
        of this save. It is empty for a session that was not used, that did not change and needs no
        refresh, that is withheld, or whose change only fits without the request's other cookies or
        was refused by `Session.check_size`.

        A session may be saved several times in a request. It then begins again with what was
        written, and the last result has everything that the response must carry. Raises
        SessionTooLarge, StorageError or NoPrimaryKey; the browser then keeps what it has. Raises
        UsageError for a session of another keeper.
        """
        loaded, deployment = session.backend, self._deployment
        if loaded is None and session.accessed:
            loaded = session.load()  # it was saved before
        if not isinstance(loaded, LoadedSession):
            return _saved(Outcome.UNTOUCHED)
        if loaded.deployment is not deployment:
            raise UsageError("save: the session is of another keeper; save it with that keeper")
        if self._subject_key is not None:
            session.follow_subject(self._subject_key)
        sent = loaded.sent
        if not session.is_touched or not (changes := session.changes()).is_modified:
            if session.is_peeked and not force:
                return _saved(_UNCHANGED, sent)
            return self._refresh(session, loaded, other_bytes, force)
        withheld = loaded.withheld
        if withheld is not None:
            is_explicit = changes.is_signed_in or changes.is_regenerated or changes.is_ended
            # A new id for a visitor without a session must not replace a login either.
            is_held_back = withheld == HeldBackCookie.reason and changes.subject is None
            if is_held_back or not is_explicit:
                loaded.note_lost_write()
                return _saved(Outcome.WITHHELD, sent)
        # A sign-in does not bring the old session back, it replaces it.
        is_another = changes.is_ended or changes.is_signed_in
        if not is_another and deployment.revocations is not None and self._is_revoked(loaded):
            report_not_saved(deployment, session, loaded)
            return _saved(Outcome.ENDED, sent)
        if not (changes.parts or changes.subject is not None or changes.is_kept):
            # A new id for a visitor is no reason to delete what could not be judged.
            if withheld is not None and not changes.is_ended:
                return _saved(Outcome.WITHHELD, sent)
            lines = delete_cookies(self._limits, session, changes, loaded)
            return _saved(Outcome.EMPTIED, merge_lines(sent, lines))
        try:
            saved = save(deployment, self._limits, session, changes, loaded, other_bytes)
        except SessionTooLarge as error:
            is_logout = is_another and changes.subject is None
            # What the application knows, which may be answering this very error.
            is_known = changes.encoded_bytes <= session.refused_bytes
            is_excused = (error.is_crowded or is_known) and not is_another
            if not is_logout and (not is_excused or changes.is_regenerated):
                raise
            # A request does not fail at its end for the foreign cookies that it brings, and no
            # logout fails for what it leaves.
            foreign_bytes = loaded.candidates.foreign_bytes
            is_alone = is_known and not error.is_crowded
            place = "" if is_alone else f" beside {foreign_bytes} bytes of other cookies"
            unsent = "what a logout leaves" if is_logout else "what a visitor changed"
            deployment.emit(
                "no-room",
                session_id=changes.id,
                detail=f"{unsent} is not sent: the session does not fit{place}; set storage or"
                " may_drop",
                level=logging.WARNING,
                is_frequent=True,
            )
            if not is_logout:
                return _saved(Outcome.NO_ROOM, sent)
            session.clear()
            lines = delete_cookies(self._limits, session, changes, loaded)
            return _saved(Outcome.EMPTIED, merge_lines(sent, lines))
        if saved is None:
            return _saved(Outcome.ENDED, sent)
        return _saved(_SAVED, merge_lines(sent, saved) if sent else saved)

    def note_scheme(self, scheme: str, host: str) -> None:
        """Log once that browsers drop our cookies, if they are secure and this response is not.

        For adapters, at a response that sets our cookies. `scheme`: of its URL, as the server knows
        it. `host`: the request's Host header. Browsers keep such cookies of localhost.
        """
        if scheme != "http" or self._is_scheme_noted or not self.settings.secure:
            return
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if _LOCAL_HOST.fullmatch(name):
            return
        self._is_scheme_noted = True
        log.warning(
            "a secure cookie is sent over plain http to %s, and browsers drop it: use https; or, if"
            " a proxy ends https, let the server trust its X-Forwarded-Proto; or set secure=False"
            " for plain http in development",
            quote_text(host),
        )

    def info(self, session: Session) -> SessionInfo:
        """Sizes, places, ages and key of a session, for pages about it. Never asks the store."""
        return describe_session(self._deployment, session)

    def revoke_subject(self, subject: str) -> None:
        """Sign out every session of `subject` that began until now, on every node.

        A session counts that began before this call by any clock within the skew. A sign-in after
        it is not affected. Raises ConfigurationError without a store or a lookup key, or if it is
        another than that of the other nodes; StorageError or NoPrimaryKey if it could not be
        recorded.
        """
        deployment, now = self._deployment, self._deployment.now()
        if deployment.revocations is None:
            raise ConfigurationError("storage: revoking by subject needs a store; set storage")
        if subject is None:
            raise UnsupportedValue("subject", "must name a user; got None, a visitor's subject")
        check_subject(subject)
        lifetime = deployment.longest_lifetime()
        deployment.revocations.mark_lookup(lifetime)
        deployment.revocations.revoke_subject(subject, lifetime)
        deployment.emit("subject-revoked")
        deployment.hooks.after_revoke_subject(subject, now)

    def revoke_session(self, session_id: str) -> bool:
        """Refuse the session with this `Session.id` from now on, on every node.

        Its cookie is not needed. If the session has a new id by now, that is refused, unless it
        belongs to another subject. False if the session was refused already. Raises
        ConfigurationError without a store, UnsupportedValue for anything but a `Session.id`,
        StorageError or NoPrimaryKey if it could not be recorded.
        """
        if self._deployment.revocations is None:
            raise ConfigurationError("storage: revoking a session needs a store; set storage")
        return revoke_id(self._deployment, parse_id(session_id)) is not None

    def is_ended(self, session_id: str) -> bool:
        """Whether every node refuses the session with this `Session.id`.

        True after a logout, after `revoke_session`, and once the session has a new id. It is not
        known here whether all sessions of its subject were signed out, or whether it has expired.
        False without a store. Raises UnsupportedValue for anything but a `Session.id`, StorageError
        if the store does not answer.
        """
        found, revocations = parse_id(session_id), self._deployment.revocations
        return revocations is not None and revocations.find(found) is not None

    def add_hooks(self, hooks: SessionHooks, uses: Sequence[str] = ()) -> None:
        """Run `hooks` at each save and revocation from now on.

        `uses`: names of what the hooks keep in the store. Raises ConfigurationError if there is no
        store, or if it falls short of their requirements.
        """
        if uses:
            self._deployment.require(*uses)
        self._deployment.hooks.all.append(hooks)

    def health(self) -> dict[str, OperatorError | None]:
        """What requests depend on, and the error of each, or None.

        ``keys``: can a session be sealed now? ``store``, if there is one: does it answer? The store
        is asked each time, within its timeout.
        """
        deployment = self._deployment
        keys = _error_of(lambda: deployment.keyring().primary(int(deployment.now())))
        health = {"keys": keys}
        if deployment.store is not None:
            health["store"] = _error_of(deployment.store.ping)
            if health["store"] is None:
                deployment.notice_answer()
        return health

    def _refresh(
        self, session: Session, loaded: LoadedSession, other_bytes: int, force: bool
    ) -> Saved:
        """Seal the unchanged session again if that is due and possible."""
        unchanged, deployment = _saved(_UNCHANGED, loaded.sent), self._deployment
        try:
            # Once it has come back, its stored parts are kept longer.
            record = None if loaded.sent else loaded.record
            has_brief_rows = (
                record is not None
                and bool(record.spilled)
                and is_unproven(record)
                and session.changes().core is None
            )
            is_forced = force and record is not None
            if not (has_brief_rows or is_forced or self._is_refresh_due(loaded)):
                return unchanged
            if deployment.are_keys_stale():
                deployment.emit("refresh-skipped")
                return unchanged
            if deployment.revocations is not None and self._is_revoked(loaded):
                return unchanged
            changes = session.changes()
            lines = save(deployment, self._limits, session, changes, loaded, other_bytes)
        except (NoPrimaryKey, SessionTooLarge, StorageError):
            # The application did not ask for this write, so the session continues as it is.
            deployment.emit("refresh-skipped")
            return unchanged
        return unchanged if lines is None else _saved(_SAVED, lines)

    def _is_refresh_due(self, loaded: LoadedSession) -> bool:
        opened, now = loaded.opened, loaded.loaded_at
        if opened is None:
            return loaded.adopted is not None  # a legacy session leaves sealed
        record, sealed_at, key = opened
        age, refresh = now - sealed_at, self._deployment.lifetimes.refresh
        if (idle := record.terms.idle) is not None:
            # A session with a short idle lifetime would else end before it is ever renewed.
            refresh = min(refresh, idle // 10)
        if key.kid != self._deployment.keyring().primary(now).kid:
            # All sessions of a retired key move to the new key, but not at the same moment: the
            # first bytes of the random id decide when. Never in the second of the seal.
            share = int.from_bytes(record.id[:4], "big") / (1 << 32)
            refresh = 1 + int(refresh * share)
        return age >= refresh

    def _is_revoked(self, loaded: LoadedSession) -> bool:
        """Whether the session was logged out while this request ran: it must not come back."""
        record = loaded.record or loaded.adopted
        if record is None:
            return False
        try:
            loaded.check_revoked(record)
        except UncheckedSession as error:
            raise StorageUnavailable(
                "the session was not saved: the store cannot say whether it was logged out"
            ) from error
        except UnreadableError as error:
            self._deployment.emit("not-sent", session_id=record.id, reason=error.reason)
            return True
        return False


def _saved(outcome: Outcome, lines: Iterable[str] = ()) -> Saved:
    saved = Saved(lines)
    saved.outcome = outcome
    return saved


def _error_of(attempt: Callable[[], object]) -> OperatorError | None:
    try:
        attempt()
    except OperatorError as error:
        return error
    return None


def find_keeper(source: object) -> Keeper:
    """The keeper of a middleware or an AsyncKeeper, or `source` if it is one.

    Raises ConfigurationError for anything else.
    """
    keeper = source
    while not isinstance(keeper, Keeper):
        keeper = getattr(keeper, "keeper", None)
        if keeper is None:
            raise ConfigurationError(
                "source: expected a Keeper, such as Keeper(Settings.from_env()), or a middleware"
                f" that has one, got {type(source).__name__}"
            )
    return keeper

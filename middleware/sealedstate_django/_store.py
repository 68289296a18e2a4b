"""Django's session, over the session of a keeper."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Self, cast

from asgiref.sync import sync_to_async
from django.conf import settings as project
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError
from django.utils import timezone
from django.utils.asyncio import async_unsafe
from django.utils.functional import cached_property
from django.utils.module_loading import import_string

from sealedstate import Keeper, Session, UnsupportedValue, UsageError
from sealedstate.keeper import Outcome

from ._keeper import keeper

_log = logging.getLogger("sealedstate.django")
# The longest lifetimes beyond which something was asked for: each is logged once.
_reported: set[int] = set()

_EXPIRY = "_session_expiry"
_REAPED = 1 << 31
# Of any engine: Django forgets shorter keys.
_SHORTEST_KEY = 8
# A later date is followed once it is later by this part of the time that is left.
_PARTS = 10


@async_unsafe(
    "the session would wait for its store in an async view: use its async methods, such as"
    " `await request.session.aget(name)`, or `await request.session.aload()` once"
)
def _require_thread() -> None:
    """Raise SynchronousOnlyOperation where an event loop would wait for the store."""


def _read_date(value: str | datetime) -> int:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return int((timezone.make_aware(moment) if timezone.is_naive(moment) else moment).timestamp())


class _Session(Session):
    """A session in which only Django's login() signs users in."""

    def _assign_subject(self, name: str, subject: str | None) -> None:
        if subject is not None:
            # Without the parts that login() adds, Django takes the user for a visitor.
            raise UsageError("subject: sign in by django.contrib.auth.login(request, user)")
        super()._assign_subject(name, None)


class SessionStore(SessionBase):
    """`request.session`; `sealedstate_django.sealed` gives the session of sealedstate behind it.

    `session_key` is the id of the session, which opens nothing: a store that is made from a key has
    no values, and can only `delete` this session. `from_cookies` opens one.
    """

    accessed = modified = False

    def __init__(
        self, session_key: str | None = None, cookie_header: str = "", cross_site: bool = False
    ) -> None:
        self._begin(keeper(), cookie_header, cross_site)
        self._set_session_key(session_key)

    @classmethod
    def from_cookies(cls, cookie_header: str, cross_site: bool = False) -> Self:
        """The session of a request; its cookies are read when it is first used."""
        return cls(None, cookie_header, cross_site)

    def _begin(self, keeper: Keeper, header: str = "", cross_site: bool = False) -> None:
        self._keeper, self._lifetimes = keeper, keeper.deployment.lifetimes
        self._sealed: Session = _Session(keeper.session(header, cross_site).loader, header)
        self._has_store = keeper.deployment.store is not None
        self._has_cookie = keeper.may_bring_session(header)
        # Whether the first use may wait, until the session was loaded ahead.
        self._may_wait = keeper.asks_store(header)
        # A key that the application has given; it is forgotten once the session is used.
        self._given_key: str | None = None
        # Whether the session exists; None: as the cookies say.
        self._has_key: bool | None = None
        self._ended_keys: set[str] = set()
        self._has_new_expiry = self._is_finished = False
        self.lines: Sequence[str] = ()
        """The Set-Cookie field values of all saves."""
        self.on_save: Callable[[Sequence[str]], None] | None = None

    @cached_property
    def serializer(self) -> Any:
        """Django's SESSION_SERIALIZER, which only `encode` and `decode` use."""
        return import_string(project.SESSION_SERIALIZER)

    # --- its key --------------------------------------------------------------------------------

    def _get_session_key(self) -> str | None:
        if self._given_key is not None:
            return self._given_key
        if self._has_key is False or (self._has_key is None and not self._has_cookie):
            return None
        session = self._get_session()
        if self._has_key is None:
            self._has_key = not session.is_new
        return session.id if self._has_key else None

    def _set_session_key(self, value: str | None) -> None:
        self._given_key = value if value and len(value) >= _SHORTEST_KEY else None
        self._has_key = False if self._given_key is None and self._has_key else self._has_key

    session_key = property(_get_session_key)  # pyright: ignore[reportIncompatibleMethodOverride]
    _session_key = property(_get_session_key, _set_session_key)  # pyright: ignore[reportIncompatibleMethodOverride]

    def exists(self, session_key: str | None = None) -> bool:
        """Whether no node refuses the session with this key, as far as this node can know.

        Without a store, only what this object has ended is known.
        """
        if session_key is None or session_key in self._ended_keys:
            return False
        if self._has_store:
            _require_thread()
        try:
            return not self._keeper.is_ended(session_key)
        except UnsupportedValue:  # no key of a sealed session
            return False

    # --- its values -----------------------------------------------------------------------------

    def _get_session(self, no_load: bool = False) -> Session:
        self.accessed, self._given_key = True, None
        session = self._sealed
        if self._may_wait:
            _require_thread()
        if self._is_finished and not session.accessed:
            # Logs and other outer middleware may look, but what they write would be lost.
            session.load()
            session.mark_headers_sent()
        return session

    _session = property(_get_session)

    async def _aget_session(self, no_load: bool = False) -> Session:
        if self._may_wait:
            await sync_to_async(self._keeper.load)(self._sealed)
            self._may_wait = False
        return self._get_session()

    def __setitem__(self, key: str, value: Any) -> None:
        # Names are exactly texts; Django makes some of texts that are marked as safe.
        session = self._session
        session[str.__str__(key) if isinstance(key, str) else key] = value
        self.modified = True
        if key == self._keeper.settings.subject_key:
            # Signals of a login must already find the session_key that it will have.
            session.follow_subject(key)
            self._has_key = self._has_key or session.subject is not None

    def clear(self) -> None:
        self._session.clear()
        self.modified = True

    def is_empty(self) -> bool:
        if not self._sealed.accessed:
            return not self._has_cookie and not self._has_key and self._given_key is None
        return self.session_key is None and not self._session

    def load(self) -> dict[str, Any]:
        return dict(self._session.items())

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        """Copies and pickles are a dict of the values, which no request saves."""
        return dict, (self._session.copy(),)

    # --- its life -------------------------------------------------------------------------------

    def create(self) -> None:
        session = self._session
        if self.session_key is not None:
            session.regenerate()
        self.save()
        self.modified = True

    def save(self, must_create: bool = False) -> None:
        """Seal the session as it is now into the cookies that the response will set.

        Raises UpdateError if another request ended it, and the errors of `Keeper.save`.
        """
        session = self._session
        if must_create and self.session_key is not None:
            raise CreateError
        session.keep()
        self._save(session)

    def finish(self, other_bytes: int, *, is_failed: bool, is_streaming: bool) -> None:
        """Save what the response must carry. See `save` for the errors.

        `is_failed`: nothing is saved but a logout. `is_streaming`: later reads raise, too.
        """
        session, force = self._sealed, project.SESSION_SAVE_EVERY_REQUEST
        try:
            if session.accessed or (force and self._has_cookie):
                session = self._get_session() if force else session
                is_empty = self.is_empty()
                if is_empty or not is_failed:
                    if not is_empty and self._has_key:
                        session.keep()
                    self._save(
                        session, other_bytes, force=(force or self.modified) and not is_empty
                    )
        finally:
            if session.accessed or is_streaming:
                session.mark_headers_sent()
            self._is_finished = True

    def _save(self, session: Session, other_bytes: int = 0, *, force: bool = False) -> None:
        if self._has_store:
            _require_thread()
        if self._has_new_expiry or _EXPIRY in session:
            subject_key = self._keeper.settings.subject_key
            if subject_key is not None:
                session.follow_subject(subject_key)
            # A new session, and each sign-in, begin with the lifetimes of the settings.
            if self._has_new_expiry or session.created_at is None:
                self._limit(session)
        saved = self._keeper.save(session, other_bytes, force=force)
        if saved.outcome is Outcome.ENDED:
            ended = session.id
            self._begin(self._keeper)
            self._has_key = False
            self._ended_keys.add(ended)
            raise UpdateError
        if saved.outcome is Outcome.SAVED:
            self._has_key = True
        elif saved.outcome is Outcome.EMPTIED:
            self._has_key = False
        self.lines = saved
        if self.on_save is not None:
            self.on_save(saved)

    def cycle_key(self) -> None:
        session = self._session
        if (before := self.session_key) is not None:
            self._ended_keys.add(before)
        session.regenerate()
        session.keep()
        self._has_key = self.modified = True

    def flush(self) -> None:
        """Log out: when this returns, the end is recorded in the store, if there is one."""
        if self._has_store:
            _require_thread()
        if self._given_key is not None:
            self.delete()
        elif (key := self.session_key) is not None:
            self._ended_keys.add(key)
        self._session.invalidate()
        self._has_key, self.modified = False, True

    def delete(self, session_key: str | None = None) -> None:
        """End this session, or with a store the session of another key."""
        if self._has_store:
            _require_thread()
        own = self.session_key
        key = own if session_key is None else session_key
        if key is None:
            return
        if key == own and self._given_key is None:
            self._session.invalidate()
            self._has_key, self.modified = False, True
        elif self.exists(key):
            self._keeper.revoke_session(key)
        self._ended_keys.add(key)

    @classmethod
    def clear_expired(cls) -> None:
        """Remove expired rows of the store."""
        store = keeper().deployment.store
        if store is not None and hasattr(store, "reap"):
            store.reap(_REAPED)

    # --- its end --------------------------------------------------------------------------------

    def get_session_cookie_age(self) -> int:
        return self._keeper.settings.idle_lifetime

    def get_expiry_age(self, **kwargs: Any) -> int:
        """Seconds until the session ends without requests; no more than are enforced."""
        return min(super().get_expiry_age(**kwargs), self._lifetimes.longest)

    def get_expiry_date(self, **kwargs: Any) -> datetime:
        """When the session ends without requests; no later than is enforced."""
        longest = timedelta(seconds=self._lifetimes.longest)
        latest = kwargs.get("modification", timezone.now()) + longest
        date: datetime = min(super().get_expiry_date(**kwargs), latest, key=_read_date)
        return date

    def set_expiry(self, value: float | datetime | timedelta | None) -> None:
        """As in Django; part of a second does not count."""
        if isinstance(value, float):
            value = 1 if 0 < value < 1 else math.floor(value)  # 0 would be the browser's end
        super().set_expiry(value)
        self._has_new_expiry = True
        given = self.get(_EXPIRY)
        now = int(self._keeper.deployment.now())
        seconds = _read_date(given) - now if isinstance(given, str | datetime) else given or 0
        longest = self._lifetimes.longest
        if seconds > longest and longest not in _reported:
            _reported.add(longest)
            _log.warning(
                "set_expiry: got %d seconds, but a session lives for %d at most; set"
                " longest_lifetime in SEALEDSTATE for more (this is logged once)",
                seconds,
                longest,
            )

    def _limit(self, session: Session) -> None:
        """Give the session the lifetimes that `set_expiry` asked for."""
        self._has_new_expiry = False
        lifetimes, now = self._lifetimes, int(self._keeper.deployment.now())
        longest = lifetimes.longest
        value = cast("str | datetime | int | None", session.get(_EXPIRY))
        idle, persistent = lifetimes.idle, True
        ends_at = min((session.created_at or now) + lifetimes.absolute, now + longest)
        until: int | None = ends_at if ends_at > now else None
        if isinstance(value, str | datetime):
            until, idle = _read_date(value), longest
            before = session.expires_at if session.created_at else None
            if before is not None and 0 <= until - before < (until - now) // _PARTS:
                # Another end is another id, for which requests under way have no session. A
                # project that calls `set_expiry` in each request must not get one in each.
                until = before
        elif value:
            idle = min(value, longest)
            until = now + longest if value > lifetimes.absolute else until
        else:
            persistent = value is None and self._keeper.settings.persistent
        if idle <= 0 or (until is not None and until <= now):
            session.invalidate()  # it is over
            self._has_key = False
            return
        until = None if until is None else min(until, now + longest)
        session.limit(idle=idle, until=until, persistent=persistent)


def _make_async(name: str, *, asks_store: bool = False) -> Callable[..., Any]:
    """The asynchronous twin of a method. `asks_store`: it waits for a store, if there is one."""

    async def call(self: SessionStore, *arguments: Any, **named: Any) -> Any:
        if self._may_wait:
            await self._aget_session()
        method = getattr(self, name)
        if asks_store and self._has_store:
            return await sync_to_async(method)(*arguments, **named)
        return method(*arguments, **named)

    return call


for _name in ("create", "save", "flush", "delete"):
    setattr(SessionStore, f"a{_name}", _make_async(_name, asks_store=True))
for _name in ("load", "cycle_key", "set_expiry", "get_expiry_age", "get_expiry_date"):
    setattr(SessionStore, f"a{_name}", _make_async(_name))
SessionStore.aset = _make_async("__setitem__")  # type: ignore[method-assign]

"""A keeper for event loops, whose calls of the store run in threads.

Without a store nothing is waited for, and everything runs where it is called. With one, loading,
saving and revoking run on a few threads that only sessions use, under asyncio (uvloop, too) and
trio. Work that has begun is finished although the task that waits for it is cancelled: a driver's
call that is cut off leaves an answer on its connection, which the next caller would misread.

The loop never waits for the store. What would make it wait raises SessionNotLoaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from ._forks import ForkSafeLock
from ._request.load import LoadedSession
from ._wire.record import Record
from .adapting import SessionDict, SessionUse, sealed
from .devices import EVERY, LiveSession, SessionRegistry
from .errors import (
    ConfigurationError,
    NoPrimaryKey,
    SessionNotLoaded,
    escape_text,
)
from .keeper import Keeper, Saved
from .session import Session

__all__ = ["AsyncKeeper", "AsyncSessionRegistry", "Logout", "SealedSession"]

T = TypeVar("T")
P = ParamSpec("P")

_log = logging.getLogger("sealedstate")
# In less time a session is opened that needs no store.
OPENING_SECONDS = 0.1


class _Gate:
    """Loads the session of one request, and lets it ask the store only inside `waiting`.

    `load`: the keeper's way to load. `loaded`: what it loaded. `may_load`: whether loading asks no
    store anyway.
    """

    def __init__(self, load: Callable[[str], LoadedSession], may_load: bool) -> None:
        self.load = load
        self.loaded: LoadedSession | None = None
        self._may_load = may_load
        self._is_open = False
        # Two tasks of one request may wait at once.
        self._lock = ForkSafeLock()

    def __call__(self, header: str) -> LoadedSession:
        if not (self._may_load or self._is_open):
            raise SessionNotLoaded("the store says whether a session was ended")
        loaded = self.loaded = self.load(header)
        loaded.may_wait = self._is_open
        return loaded

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Let the session ask the store while the block runs, in a thread."""
        with self._lock:
            self._set_open(True)
            try:
                yield
            finally:
                self._set_open(False)

    def open_known(self, session: Session) -> Record | None:
        """Open the session, which asks no store now; its record, if there is one."""
        with self._lock:
            self._is_open = True
            try:
                session.load_ahead(())
            finally:
                self._set_open(False)
        return None if self.loaded is None else self.loaded.record

    def _set_open(self, is_open: bool) -> None:
        self._is_open = is_open
        if self.loaded is not None:
            self.loaded.may_wait = is_open


class AsyncKeeper:
    """Opens and saves the sessions of one application in event loops.

    `threads`: how many requests may ask the store at once; a SQL store should have as many
    connections (``sealedstate_pool_size``). Further requests wait for a thread, and hold up nothing
    else in the loop. Raises ConfigurationError.
    """

    def __init__(self, keeper: Keeper, threads: int = 32) -> None:
        if type(threads) is not int or threads < 1:
            raise ConfigurationError(
                f"threads: must be a whole number, at least 1; got {threads!r}"
            )
        self.keeper = keeper
        legacy = keeper.settings.legacy
        self._fetches = legacy is not None and legacy.fetch is not None
        # Whether anything is ever waited for.
        self.can_wait = self._fetches or keeper.deployment.store is not None
        self._threads = threads
        # Threads do not survive a fork: the process that made them, and they.
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self._limiter = RunVar[CapacityLimiter](f"sealedstate-{id(self)}")
        policies = keeper.deployment.policies
        self._served = frozenset(name for name, each in policies.items() if each.value == "server")

    def session(self, cookie_header: str = "", cross_site: bool = False) -> Session:
        """The session of a request, as `Keeper.session` returns it, to be loaded by `load`.

        If opening it would ask the store, its first use raises SessionNotLoaded until then.
        """
        session = self.keeper.session(cookie_header, cross_site)
        if self.can_wait:
            gate = _Gate(session.loader, not self.keeper.asks_store(cookie_header))  # type: ignore[arg-type]
            return Session(gate, cookie_header)
        return session

    async def load(self, session: Session, parts: Collection[str] = ()) -> None:
        """Open a session and recall its stored parts, without using it.

        Parts of the policy ``server`` are recalled only if they are among `parts`. What the store
        does not answer is raised where a part is read. If nothing can wait, the first use opens it.
        """
        gate, feed = session.loader, self.keeper.deployment.feed
        if not isinstance(gate, _Gate):
            return
        if feed is not None and not self._fetches and feed.is_fresh(OPENING_SECONDS):
            # What the process knows of logouts suffices to open it, and nothing is waited for.
            record = gate.open_known(session)
            if record is None or not record.spilled:
                return
        await self._run(session, self._load, session, parts)

    async def save(self, session: Session, other_bytes: int = 0, *, force: bool = False) -> Saved:
        """As `Keeper.save`, with its errors."""
        if self.can_wait:
            try:
                is_due = self.keeper.is_save_due(session, force=force)
            except (SessionNotLoaded, NoPrimaryKey):
                is_due = True
            if is_due:
                save = partial(self.keeper.save, session, other_bytes, force=force)
                return await self._run(session, save)
        return self.keeper.save(session, other_bytes, force=force)

    async def invalidate(self, session: Session) -> None:
        """As `Session.invalidate`: the logout is recorded when this returns."""
        await self._run(session, session.invalidate)

    async def close_unsent(self, session: Session) -> None:
        """Record the logout of a websocket that was not accepted, so that no response carries it.

        Any other change of it is logged as lost. Raises what `invalidate` raises.
        """
        if self.keeper.settings.subject_key is not None:
            session.follow_subject(self.keeper.settings.subject_key)
        changes = session.changes()
        if changes.is_signed_in and changes.subject is None:
            await self.invalidate(session)
        elif changes.is_modified and not changes.is_ended:
            _log.error("changed in a websocket that was not accepted, and lost")

    async def revoke_subject(self, subject: str) -> None:
        """As `Keeper.revoke_subject`."""
        await self.in_thread(self.keeper.revoke_subject, subject)

    async def revoke_session(self, session_id: str) -> bool:
        """As `Keeper.revoke_session`."""
        return await self.in_thread(self.keeper.revoke_session, session_id)

    async def is_ended(self, session_id: str) -> bool:
        """As `Keeper.is_ended`, for connections that live for long."""
        return await self.in_thread(self.keeper.is_ended, session_id)

    async def in_thread(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """What `work` returns, called on one of the threads that may wait for the store.

        Without a store it is called at once. `work` is finished although this is cancelled.
        """
        call = partial(work, *args, **named)
        if not self.can_wait:
            return call()
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # trio, which lends a thread of its cache
            try:
                limiter = self._limiter.get()
            except LookupError:
                limiter = CapacityLimiter(self._threads)
                self._limiter.set(limiter)
            return await to_thread.run_sync(call, limiter=limiter)
        if self._pool is None or self._pool[0] != os.getpid():
            pool = ThreadPoolExecutor(self._threads, thread_name_prefix="sealedstate")
            self._pool = os.getpid(), pool
        return await _finish(self._pool[1].submit(copy_context().run, call))

    async def close(self) -> None:
        """Close what the application has open, once the threads have finished their work."""
        await self.in_thread(self.keeper.deployment.close)
        pool, self._pool = self._pool, None
        if pool is not None and pool[0] == os.getpid():
            pool[1].shutdown(wait=False)

    async def _run(
        self, session: Session, work: Callable[P, T], *args: P.args, **named: P.kwargs
    ) -> T:
        """What `work` returns, which may let `session` ask the store."""
        gate = session.loader
        if not isinstance(gate, _Gate):
            return work(*args, **named)

        def wait() -> T:
            with gate.waiting():
                return work(*args, **named)

        return await self.in_thread(wait)

    def _load(self, session: Session, parts: Collection[str]) -> None:
        self.keeper.load(session, ())
        gate = session.loader
        record = gate.loaded.record if isinstance(gate, _Gate) and gate.loaded else None
        if record is not None and record.spilled:
            unasked = self._served.difference(parts)
            self.keeper.load(session, [name for name in record.spilled if name not in unasked])


class Logout(Awaitable[None]):
    """The logout of a session of `keeper`, which is empty at once and may be used as a new one.

    The end is recorded when this is awaited. Unlike a coroutine it need not be awaited by the
    application, because frameworks have functions of this kind that are not: the adapter awaits it
    before it saves the session. Awaited again, it does nothing. Raises StorageError, NoPrimaryKey
    or SessionWithheld if the end could not be recorded; the session is then as it was before.
    """

    def __init__(self, keeper: AsyncKeeper, session: Session) -> None:
        self._keeper, self._session, self._is_done = keeper, session, False
        session.begin_logout()

    def __await__(self) -> Generator[Any, None, None]:
        return self._record().__await__()

    async def _record(self) -> None:
        is_recorded = False

        def end() -> None:
            nonlocal is_recorded
            self._session.load().end()
            is_recorded = True  # also if the task is cancelled that waits for it

        if not self._is_done:
            try:
                await self._keeper._run(self._session, end)
            finally:
                self._is_done = True
                self._session.finish_logout(is_recorded)


class AsyncSessionRegistry:
    """The live sessions of users, for applications in event loops.

    The parameters are those of SessionRegistry, with its errors. `registry`: what it is made of;
    what administrators do with that is called by `AsyncKeeper.in_thread`.
    """

    def __init__(
        self,
        keeper: AsyncKeeper,
        where: str | Callable[[Session], str] = "",
        every: int = EVERY,
        most: int | None = None,
    ) -> None:
        self.registry = SessionRegistry(keeper.keeper, where, every, most)
        self._keeper = keeper

    async def of(self, session: object) -> list[LiveSession]:
        """As `SessionRegistry.of`. `session`: a SealedSession, or what a framework has for it."""
        return await self._keeper.in_thread(self.registry.of, _used(session))

    async def end_one(self, session: object, id: str) -> LiveSession | None:
        """As `SessionRegistry.end_one`."""
        return await self._keeper.in_thread(self.registry.end_one, _used(session), id)

    async def end_others(self, session: object) -> int:
        """As `SessionRegistry.end_others`."""
        return await self._keeper.in_thread(self.registry.end_others, _used(session))


def _used(session: object) -> Session:
    """The session behind a framework's, which the response then depends on."""
    return session.use() if isinstance(session, SealedSession) else sealed(session)


class SealedSession:
    """The session of one request or websocket, for applications in event loops.

    Nothing here waits but `invalidate` and `load`. Until it is loaded, if that asks the store,
    everything else raises SessionNotLoaded. Times are epoch seconds. `is_websocket`: it may be read
    at any time, because no cache keeps what comes after the headers. `access`: whether the
    application used it, for adapters.
    """

    _parts: SessionDict | None = None
    _logout: Logout | None = None

    def __init__(self, keeper: AsyncKeeper, session: Session, is_websocket: bool = False) -> None:
        self._keeper, self._session = keeper, session
        self.access = SessionUse(session)
        self._is_websocket = is_websocket

    @property
    def parts(self) -> SessionDict:
        """The dict of its parts. Raises SessionNotLoaded."""
        if self._parts is None:
            raise SessionNotLoaded("the session was not loaded")
        return self._parts

    @property
    def id(self) -> str:
        """22 characters that stay the same until `regenerate`, `invalidate` or a sign-in."""
        return self.use().id

    @property
    def subject(self) -> str | None:
        """The user that it belongs to; None for a visitor. Assigning one is `sign_in`."""
        return self.use().subject

    @subject.setter
    def subject(self, subject: str | None) -> None:
        self.use_to_write().subject = subject
        self.parts.fill()

    @property
    def is_new(self) -> bool:
        """Whether the request brought no session that could be opened."""
        return self.use().is_new

    @property
    def created_at(self) -> int | None:
        """When it began or was signed in; None until it is saved."""
        return self.use().created_at

    @property
    def expires_at(self) -> int | None:
        """When it ends even if it is in use, as `Session.expires_at`."""
        return self.use().expires_at

    @property
    def persistent(self) -> bool | None:
        """Whether its cookies outlive the browser's window; None: as the settings say."""
        return self.use().persistent

    @property
    def is_bound(self) -> bool:
        """Whether it opens only in the browser that has its key (experimental)."""
        return self.use().is_bound

    @property
    def refusal(self) -> str | None:
        """Why the cookies opened no session, in a word for visitors, as `Session.refusal`."""
        return self.use().refusal

    @property
    def withheld(self) -> str | None:
        """Why the cookies cannot be judged now; None in all ordinary cases."""
        return self.use().withheld

    def sign_in(
        self,
        subject: str,
        *,
        idle: int | None = None,
        until: float | datetime | None = None,
        persistent: bool | None = None,
    ) -> None:
        """Sign a user in: a new id, full lifetimes, and those of `limit`.

        The parts of another user are dropped, those of a visitor stay.
        """
        self.subject = subject
        if (idle, until, persistent) != (None, None, None):
            self.limit(idle=idle, until=until, persistent=persistent)

    async def invalidate(self) -> None:
        """Log out. When this returns, the end is recorded in the store, if there is one.

        A task that is cancelled meanwhile still finishes it. Raises StorageError, NoPrimaryKey or
        SessionWithheld if it could not be recorded; the session is then unchanged.
        """
        await self._keeper.invalidate(self.use_to_write())
        self.parts.fill()

    def regenerate(self) -> None:
        """Give it a new id, at a change of privilege; its parts and lifetimes stay."""
        self.use_to_write().regenerate()

    def limit(
        self,
        *,
        idle: int | None = None,
        until: float | datetime | None = None,
        persistent: bool | None = None,
    ) -> None:
        """Give it lifetimes of its kind, such as "remember me", as `Session.limit`."""
        self.use_to_write().limit(idle=idle, until=until, persistent=persistent)

    def peek(self) -> Self:
        """Say that this request is no activity of the user, so that reading renews nothing."""
        self.use().peek()
        return self

    def check_size(self) -> None:
        """Raise SessionTooLarge if no response could carry it; also finds changes inside lists."""
        self.use().check_size()

    async def load(self, *parts: str) -> None:
        """Ask the store for it, and for those of its `parts` that have the policy ``server``."""
        await self._keeper.load(self._session, parts)
        if self._parts is None:
            self._parts = SessionDict(self.access)
        self._parts.fill()

    def __repr__(self) -> str:
        is_used = hasattr(self, "access") and self.is_used
        return f"<SealedSession, used: {is_used}>"

    # --- for adapters ---------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The session, which this does not use."""
        return self._session

    @property
    def is_used(self) -> bool:
        """Whether the application used it."""
        return self.access.is_used

    @property
    def shows_parts(self) -> bool:
        """Whether an encoder in C, which calls no method, could show parts of it unnoticed."""
        parts = self._parts
        return parts is not None and parts.is_filled and dict.__len__(parts) > 0

    def use(self) -> Session:
        """The session, which the response then depends on: `is_used`. Raises LateRead."""
        return self.access.use()

    def use_to_write(self) -> Session:
        """The same before a write. Raises LateWrite."""
        return self.access.use_to_write()

    def begin_logout(self) -> None:
        """Log out as `Logout` does: empty at once, and recorded before it is saved."""
        self._logout = Logout(self._keeper, self.use_to_write())
        self.parts.fill()

    def begin(self, is_empty: bool, is_filled: bool = True) -> None:
        """Let it be used: no store is asked for it, or `AsyncKeeper.load` has done that.

        `is_empty`: whether its request brings no session, so that nothing needs to be read.
        `is_filled`: whether `parts` is filled now, and not at its first use.
        """
        self._parts = SessionDict(self.access, is_empty)
        if is_filled and not is_empty:
            self._parts.fill()

    async def save(self, other_bytes: int) -> Saved:
        """As `AsyncKeeper.save`, after the end of `begin_logout` is recorded."""
        if self._logout is not None:
            await self._logout
        if not self._keeper.can_wait:
            return self._keeper.keeper.save(self._session, other_bytes)
        return await self._keeper.save(self._session, other_bytes)

    def mark_headers_sent(self) -> None:
        """From now on, a write raises LateWrite, and the first use of a request LateRead."""
        access = self.access
        if self._is_websocket and self._parts is not None:
            access.use()
        access.is_late = True
        self._session.mark_headers_sent()

    async def close_unsent(self) -> None:
        """As `AsyncKeeper.close_unsent`, of a websocket that was not accepted."""
        access = self.access
        if access.is_used and not access.is_late:
            if self._logout is not None:
                await self._logout
            await self._keeper.close_unsent(self._session)
            access.mark_headers_sent()

    def log_late_changes(self) -> None:
        """Log changes inside values that were made after the headers were sent."""
        access = self.access
        if access.is_late and access.is_used and (late := self._session.late_changes()):
            names = escape_text(", ".join(late), 1000)
            _log.error("changed after the response headers were sent, and lost: %s", names)


async def _finish(work: Future[T]) -> T:
    """The result of `work`. A cancellation of this task is raised when it is finished."""
    future, cancelled = asyncio.wrap_future(work), None
    # The scopes of anyio wait, which would otherwise cancel again at each turn of the loop.
    with CancelScope(shield=True):
        while not future.done():
            try:
                # Unlike `await future`, this leaves it alone.
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is None:
        return future.result()
    if (failure := future.exception()) is not None:
        _log.error("work for a request that was cancelled has failed: %s", failure)
    raise cancelled

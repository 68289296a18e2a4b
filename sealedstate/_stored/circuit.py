"""A store that is timed, and asked only once a second while it does not answer.

A call of a store that is frozen, or behind a network that drops packets, takes its whole time-out.
If each request waited for as long, all workers would wait, and no page would be answered. So after
a few such calls in a row, a process sends one call a second to the store, and all others fail at
once, with StorageUnavailable. The first answer ends that.

A frozen server answers the call that waits when it runs again. If no call waits, the next may be
sent REST_SECONDS after the last has ended. So where requests come and an answer takes up to a
quarter of a second, a store is used again within a second of its return.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar, cast

from .._forks import ForkSafeLock
from ..errors import OutcomeUnknown, StorageError, StorageUnavailable
from ..events import EventName
from ..storage import Capabilities, RoutedStorage, Storage, Stored
from ..storage.contract import Changes, FollowedStorage, HintingStorage, Listener
from ..storage.requirements import store_name
from ..storage.routing import ForwardingStorage, distinct_stores

T = TypeVar("T")

# After this many time-outs in a row, calls fail at once.
MOST_TIMEOUTS = 3
# A call that fails sooner has not waited for the store: it refuses connections, say.
SLOW_SECONDS = 0.1
# When the next call may be sent: after the last has begun, or, if that is sooner, has ended.
RETRY_SECONDS, REST_SECONDS = 1.0, 0.5


class Emit(Protocol):
    """`EventLog.emit`."""

    def __call__(
        self,
        name: EventName,
        reason: str | None = None,
        *,
        detail: str | None = None,
        level: int = logging.INFO,
        is_frequent: bool = False,
        operation: str | None = None,
        seconds: float | None = None,
    ) -> None: ...


def watch(storage: Storage, running: Callable[[], float], emit: Emit) -> Storage:
    """Each store that `storage` is or routes to, watched.

    `running`: seconds of a clock that continues while the machine sleeps.
    """
    if not isinstance(storage, RoutedStorage):
        return WatchedStorage(storage, running, emit)
    routes = {context: storage.store_of(context) for context in storage.contexts}
    default = storage.store_of("")
    stores = distinct_stores([default, *routes.values()])
    watched = {id(store): watch(store, running, emit) for store in stores}
    contexts = {context: watched[id(store)] for context, store in routes.items()}
    return RoutedStorage(watched[id(default)], contexts)


class WatchedStorage(ForwardingStorage):
    """`storage`, as the module says. Each call is an event, with its duration and its outcome."""

    def __init__(self, storage: Storage, running: Callable[[], float], emit: Emit) -> None:
        super().__init__(storage, {})
        self._running, self.emit = running, emit
        self._timeouts, self._retry_at = 0, -math.inf
        # Held by the only call that may ask while the store is silent.
        self._trial = ForkSafeLock()
        self._known: Capabilities | None = None

    @property
    def name(self) -> str:
        """The store's name in messages."""
        return store_name(self._default)

    @property
    def capabilities(self) -> Capabilities:
        if self._known is None or self._timeouts < MOST_TIMEOUTS:
            self._known = self._default.capabilities
        return self._known

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        return self._call("create", lambda s: s.create(context, key, value, expires_at, version))

    def read(self, context: str, key: str) -> Stored | None:
        return self._call("read", lambda store: store.read(context, key))

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        return self._call(
            "update", lambda store: store.update(context, key, value, expires_at, version, expected)
        )

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        return self._call("delete", lambda store: store.delete(context, key, expected))

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        return self._call("keys", lambda store: store.keys(context, prefix))

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        self._call("add_member", lambda store: store.add_member(context, key, member, expires_at))

    def remove_member(self, context: str, key: str, member: str) -> bool:
        return self._call("remove_member", lambda store: store.remove_member(context, key, member))

    def members(self, context: str, key: str) -> dict[str, int | None]:
        return self._call("members", lambda store: store.members(context, key))

    def ping(self) -> None:
        self._call("ping", lambda store: store.ping())

    def changes(self, after: str | None, limit: int) -> Changes:
        """As `FollowedStorage.changes`, of a store that has it."""
        return self._call(
            "changes", lambda store: cast(FollowedStorage, store).changes(after, limit)
        )

    def listen(self) -> Listener | None:
        """As `HintingStorage.listen`; None also for a store that does not hint."""
        listen = getattr(self._default, "listen", None)
        return None if listen is None else cast("Listener | None", listen())

    def notify(self) -> None:
        """As `HintingStorage.notify`, of a store that hints."""
        if hasattr(self._default, "notify"):
            self._call("notify", lambda store: cast(HintingStorage, store).notify())

    def _call(self, operation: str, act: Callable[[Storage], T]) -> T:
        if self._timeouts < MOST_TIMEOUTS:
            return self._time(operation, act)
        if self._running() < self._retry_at or not self._trial.acquire(blocking=False):
            raise StorageUnavailable(
                f"{self.name}: it did not answer {self._timeouts} times in a row, and is asked"
                " again once a second"
            )
        try:
            self._retry_at = self._running() + RETRY_SECONDS
            return self._time(operation, act)
        finally:
            self._retry_at = min(self._retry_at, self._running() + REST_SECONDS)
            self._trial.release()

    def _time(self, operation: str, act: Callable[[Storage], T]) -> T:
        began = self._running()
        try:
            result = act(self._default)
        except StorageUnavailable:
            self._note_silence(operation, "unavailable", began)
            raise
        except OutcomeUnknown:
            self._note_silence(operation, "unknown", began)
            raise
        except StorageError:
            self._note_answer(operation, "refused", began)
            raise
        self._note_answer(operation, "answered", began)
        return result

    def _note_answer(self, operation: str, outcome: str, began: float) -> None:
        self._note_call(operation, outcome, self._running() - began)
        if self._timeouts >= MOST_TIMEOUTS:
            self.emit("store-back", detail=f"{self.name} answers again", level=logging.WARNING)
        self._timeouts = 0

    def _note_silence(self, operation: str, outcome: str, began: float) -> None:
        seconds = self._running() - began
        self._note_call(operation, outcome, seconds)
        if seconds < SLOW_SECONDS:
            return
        self._timeouts += 1
        if self._timeouts == MOST_TIMEOUTS:
            self._retry_at = min(began + RETRY_SECONDS, self._running() + REST_SECONDS)
            self.emit(
                "store-silent",
                detail=f"{self.name} did not answer {MOST_TIMEOUTS} times in a row; until it does,"
                " it is asked once a second, and all other calls fail at once",
                level=logging.ERROR,
            )

    def _note_call(self, operation: str, outcome: str, seconds: float) -> None:
        self.emit("store-call", outcome, operation=operation, seconds=seconds, level=logging.DEBUG)

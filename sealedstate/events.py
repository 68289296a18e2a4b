"""Events of sessions and keys, for logs, counters and observers.

Each event is one record of the logger ``sealedstate``, at INFO, or at WARNING or ERROR if the
operator should look; each call of the store at DEBUG. Its fields are a dict,
``record.sealedstate``, beside the readable message. An event has a digest of the session's id and
the id of the key, and no other data of either.
docs/events.md lists all events.
"""

from __future__ import annotations

import hashlib
import logging
import math
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ._forks import ForkSafeLock
from .errors import ConfigurationError, escape_message

__all__ = ["Event", "EventLog", "EventName", "Observer"]

_log = logging.getLogger("sealedstate")
# Invented kids must fill neither the memory nor a metrics system: for each label, at most this many
# kids are counted by their names, and the others together.
MAX_KIDS = 256
OTHER_KIDS = "others"
# How many events may wait to be counted.
MAX_PENDING = 256
OBSERVER_FAILED = "observer-failed"
# How often a frequent event is logged as a warning, in seconds.
WARN_EVERY = 60

EventName: TypeAlias = Literal[
    "adopted",
    "feed-followed",
    "feed-lost",
    "given-up",
    "key-missing",
    "keys-stale",
    "legacy-refused",
    "logins-unreadable",
    "logouts-assumed",
    "logouts-unknown",
    "no-room",
    "not-sent",
    "opened",
    "part-left-out",
    "part-missing",
    "part-unreadable",
    "recalled",
    "refresh-skipped",
    "refused",
    "report-failed",
    "revoked",
    "ring-refused",
    "ring-reloaded",
    "ring-restored",
    "ring-rotated",
    "row-refused",
    "saved",
    "spilled",
    "store-back",
    "store-call",
    "store-silent",
    "subject-revoked",
    "withheld-long",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a session or a key.

    `reason`: why, of a fixed set of words. `kid`: 8 hex digits. `session`: 16 hex digits that
    differ for each session. `detail`: a sentence for people. `counted_kid`: the kid for a label of
    a metric, or ``others`` once too many kids came. `operation` and `seconds`: of a call of the
    store, and how long it took.
    """

    name: EventName
    reason: str | None = None
    kid: str | None = None
    session: str | None = None
    detail: str | None = None
    counted_kid: str | None = None
    operation: str | None = None
    seconds: float | None = None

    @property
    def label(self) -> str:
        """The name in counters, such as ``refused-tag``."""
        return _label(self.name, self.reason)


class Observer(Protocol):
    """A function that is called with each event.

    It is called in the thread of the request, or in the thread that rotates the keys, and by
    several threads at once: it should be quick, and needs a lock for its own state. An exception is
    logged and affects no request.
    """

    def __call__(self, event: Event, /) -> object: ...


class EventLog:
    """Counts, logs and passes on the events of one application.

    All threads may use it. `monotonic`: seconds that never go back; without it, each frequent event
    is logged at its level. Raises ConfigurationError for an observer that is not callable.
    """

    def __init__(
        self,
        observers: Sequence[Observer] = (),
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._observers = tuple(observers)
        self._monotonic = monotonic
        for observer in self._observers:
            if not callable(observer):
                raise ConfigurationError(
                    f"observers: expected functions, got {type(observer).__name__}"
                )
        self._counts: Counter[str] = Counter()
        self._by_kid: dict[str, Counter[str]] = {}
        # Events that are not counted yet. Appending needs no lock, and counting many at once is
        # cheaper.
        self._pending: list[tuple[str, str | None, bytes | None]] = []
        self._logged_failures: set[tuple[int, type[Exception]]] = set()
        # When a frequent event was last logged at its level, by label.
        self._warned_at: dict[str, float] = {}
        self._lock = ForkSafeLock()

    @property
    def counts(self) -> Counter[str]:
        """The number of events by label, as a copy."""
        with self._lock:
            self._count_pending()
            return self._counts.copy()

    @property
    def by_kid(self) -> Counter[tuple[str, str]]:
        """The number of events by (label, kid), as a copy.

        For each label, at most `MAX_KIDS` kids are counted by name, and further ones as ``others``.
        """
        with self._lock:
            self._count_pending()
            kids = self._by_kid.items()
            return Counter({(label, kid): n for label, counts in kids for kid, n in counts.items()})

    def emit(
        self,
        name: EventName,
        reason: str | None = None,
        *,
        kid: bytes | None = None,
        session_id: bytes | None = None,
        detail: str | None = None,
        level: int = logging.INFO,
        is_frequent: bool = False,
        operation: str | None = None,
        seconds: float | None = None,
    ) -> None:
        """Count, log and pass on one event. A failing observer raises nothing here.

        `is_frequent`: each request may repeat it, so it is logged at `level` at most once in
        WARN_EVERY seconds, for each name and reason, and otherwise at INFO.
        """
        self._pending.append((name, reason, kid))
        if is_frequent and not self._may_warn(_label(name, reason)):
            level = logging.INFO
        is_logged = _log.isEnabledFor(level)
        if not (is_logged or self._observers):
            # The usual case: no Event is made, and no id is hashed.
            if len(self._pending) >= MAX_PENDING:
                with self._lock:
                    self._count_pending()
            return
        with self._lock:
            self._count_pending()
            counted_kid = self._name_of_kid(_label(name, reason), kid.hex()) if kid else None
        if detail is not None:
            detail = escape_message(detail)
        session = (
            None if session_id is None else hashlib.blake2b(session_id, digest_size=8).hexdigest()
        )
        event = Event(
            name,
            reason,
            kid.hex() if kid else None,
            session,
            detail,
            counted_kid,
            operation,
            None if seconds is None else round(seconds, 6),
        )
        if is_logged:
            facts: dict[str, str | float | None]
            facts = {"kid": event.kid, "session": event.session}
            facts |= {"operation": operation, "seconds": event.seconds}
            known = {key: value for key, value in facts.items() if value is not None}
            message = [event.label, *(f"{key}={value}" for key, value in known.items())]
            if detail is not None:
                message.append(detail)
            fields = {"event": name, "reason": reason, **facts, "detail": detail}
            fields = {key: value for key, value in fields.items() if value is not None}
            _log.log(level, "%s", " ".join(message), extra={"sealedstate": fields})
        for number, observer in enumerate(self._observers):
            try:
                observer(event)
            except Exception as error:
                self._pending.append((OBSERVER_FAILED, None, None))
                # With its traceback only once: at each request it would hide everything else.
                if (number, type(error)) not in self._logged_failures:
                    self._logged_failures.add((number, type(error)))
                    # On one line, because the text of others could pose as lines of the log.
                    frames = traceback.extract_tb(error.__traceback__)[::-1]
                    places = [f"{each.filename}:{each.lineno} {each.name}" for each in frames]
                    _log.error(
                        "an observer failed at %s: %s; in %s",
                        event.label,
                        escape_message(f"{type(error).__name__}: {error}"),
                        escape_message(" < ".join(places)),
                    )

    def _may_warn(self, label: str) -> bool:
        if self._monotonic is None:
            return True
        with self._lock:
            now = self._monotonic()
            if now < self._warned_at.get(label, -math.inf) + WARN_EVERY:
                return False
            self._warned_at[label] = now
            return True

    def _count_pending(self) -> None:
        """Count the events that are pending now. The caller holds the lock."""
        pending = self._pending
        # Other threads keep appending, so exactly the events that are counted are cut off.
        size = len(pending)
        counting, pending[:size] = pending[:size], []
        for (name, reason, kid), times in Counter(counting).items():
            label = _label(name, reason)
            self._counts[label] += times
            if kid:
                kids = self._by_kid.setdefault(label, Counter())
                kids[self._name_of_kid(label, kid.hex())] += times

    def _name_of_kid(self, label: str, kid: str) -> str:
        """The name that a kid is counted by. The caller holds the lock."""
        kids = self._by_kid.setdefault(label, Counter())
        return kid if kid in kids or len(kids) < MAX_KIDS else OTHER_KIDS


def _label(name: str, reason: str | None) -> str:
    return name if reason is None else f"{name}-{reason}"

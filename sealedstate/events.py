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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol, TypeAlias

from ._forks import ForkSafeLock
from .errors import ConfigurationError, escape_message

__all__ = ["Event", "EventLog", "EventName", "JSONFormatter", "Observer"]

_log = logging.getLogger("sealedstate")
# Invented kids must fill neither the memory nor a metrics system: for each label, at most this many
# kids are counted by their names, and the others together.
MAX_KIDS = 256
OTHER_KIDS = "others"
_OTHERS = OTHER_KIDS.encode()
# How many events of one kind may wait to be counted.
MAX_PENDING = 256
OBSERVER_FAILED = "observer-failed"
# How often a frequent event is logged as a warning, in seconds.
WARN_EVERY = 60

EventName: TypeAlias = Literal[
    "adopted",
    "bound",
    "bound-renewed",
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
    "proof-refused",
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
    "unbound",
    "withheld-long",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a session or a key.

    `reason`: why, of a fixed set of words. `kid`: 8 hex digits. `session`: 16 hex digits that
    differ for each session. `detail`: a sentence for people. `counted_kid`: the kid for a label of
    a metric, or ``others`` once too many kids came. `operation`: of a call of the store. `seconds`:
    how long that call, opening or saving took. `numbers`: of what was opened or saved, sizes in
    bytes, and parts by their place.
    """

    name: EventName
    reason: str | None = None
    kid: str | None = None
    session: str | None = None
    detail: str | None = None
    counted_kid: str | None = None
    operation: str | None = None
    seconds: float | None = None
    numbers: Mapping[str, int] | None = None

    @property
    def label(self) -> str:
        """The name in counters, such as ``refused-tag``."""
        return _label(self.name, self.reason)


class Observer(Protocol):
    """A function that is called with each event.

    It is called in the thread of the request, or in one that rotates the keys or follows the
    logouts, and by several threads at once: it should be quick, and needs a lock for its own state.
    An exception is logged and affects no request.
    """

    def __call__(self, event: Event, /) -> object: ...


class JSONFormatter(logging.Formatter):
    """Log records as JSON, one object on a line.

    ``time`` (ISO 8601, UTC), ``level``, ``logger`` and ``message``; of an event also its fields, of
    an exception ``exception``. For any logger: other records have no fields of an event.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line of ASCII."""
        import json  # not every application logs so

        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        facts = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "sealedstate", {}),
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return json.dumps(facts, default=str)


class _Count:
    """The number of the events of one label and, if they have one, one kid.

    Each event appends to `pending`, which needs no lock. `read` may be called by one thread.
    """

    __slots__ = ("_total", "kid", "label", "pending")

    def __init__(self, label: str, kid: str | None) -> None:
        self.label = label
        self.kid = kid
        self.pending: list[None] = []
        self._total = 0

    def read(self) -> int:
        # Other threads keep appending, so exactly what is counted is cut off.
        size = len(self.pending)
        del self.pending[:size]
        self._total += size
        return self._total


class EventLog:
    """Counts, logs and passes on the events of one application.

    All threads may use it. `monotonic`: seconds that never go back; without it, each frequent event
    is logged at its level. `timer` is the same, or None if no observer would get what it measures.
    Raises ConfigurationError for an observer that is not callable.
    """

    def __init__(
        self,
        observers: Sequence[Observer] = (),
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._observers = tuple(observers)
        self._monotonic = monotonic
        # What measures durations: only where an observer gets them.
        self.timer = monotonic if self._observers else None
        for observer in self._observers:
            if not callable(observer):
                raise ConfigurationError(
                    f"observers: expected functions, got {type(observer).__name__}"
                )
        # By name, reason and kid.
        self._counters: dict[tuple[str, str | None, bytes | None], _Count] = {}
        # How many kids are counted by their names, by label.
        self._kids: Counter[str] = Counter()
        self._logged_failures: set[tuple[int, type[Exception]]] = set()
        # When a frequent event was last logged at its level, by label.
        self._warned_at: dict[str, float] = {}
        self._lock = ForkSafeLock()

    @property
    def counts(self) -> Counter[str]:
        """The number of events by label, as a copy."""
        counts: Counter[str] = Counter()
        with self._lock:
            for each in self._counters.values():
                counts[each.label] += each.read()
        return counts

    @property
    def by_kid(self) -> Counter[tuple[str, str]]:
        """The number of events by (label, kid), as a copy.

        For each label, at most `MAX_KIDS` kids are counted by name, and further ones as ``others``.
        """
        with self._lock:
            counters = self._counters.values()
            return Counter(
                {(each.label, each.kid): each.read() for each in counters if each.kid is not None}
            )

    def emit(
        self,
        name: EventName,
        reason: str | None = None,
        kid: bytes | None = None,
        session_id: bytes | None = None,
        detail: str | None = None,
        level: int = logging.INFO,
        is_frequent: bool = False,
        operation: str | None = None,
        seconds: float | None = None,
        numbers: Mapping[str, int] | None = None,
    ) -> None:
        """Count, log and pass on one event. A failing observer raises nothing here.

        `is_frequent`: each request may repeat it, so it is logged at `level` at most once in
        WARN_EVERY seconds, for each name and reason, and otherwise at INFO.
        """
        try:
            count = self._counters[name, reason, kid]
        except KeyError:
            count = self._begin_count(name, reason, kid)
        pending = count.pending
        pending.append(None)
        if is_frequent and not self._may_warn(count.label):
            level = logging.INFO
        is_logged = _log.isEnabledFor(level)
        if len(pending) >= MAX_PENDING:
            with self._lock:
                count.read()
        if not (is_logged or self._observers):
            return  # the usual case: no Event is made, and no id is hashed
        if detail is not None:
            detail = escape_message(detail)
        session = None if session_id is None else digest_id(session_id)
        event = Event(
            name,
            reason,
            kid.hex() if kid else None,
            session,
            detail,
            count.kid,
            operation,
            None if seconds is None else round(seconds, 6),
            numbers,
        )
        if is_logged:
            facts: dict[str, str | float | None]
            facts = {"kid": event.kid, "session": event.session}
            facts |= {"operation": operation, "seconds": event.seconds}
            known = {key: value for key, value in facts.items() if value is not None}
            message = [event.label, *(f"{key}={value}" for key, value in known.items())]
            if detail is not None:
                message.append(detail)
            fields = {"event": name, "reason": reason, **facts, **(numbers or {}), "detail": detail}
            fields = {key: value for key, value in fields.items() if value is not None}
            _log.log(level, "%s", " ".join(message), extra={"sealedstate": fields})
        for number, observer in enumerate(self._observers):
            try:
                observer(event)
            except Exception as error:
                self._begin_count(OBSERVER_FAILED, None, None).pending.append(None)
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

    def _begin_count(self, name: str, reason: str | None, kid: bytes | None) -> _Count:
        """The count of such events, begun if there is none yet and there may be one more."""
        label = _label(name, reason)
        with self._lock:
            if kid and (name, reason, kid) not in self._counters:
                if self._kids[label] >= MAX_KIDS:
                    kid = _OTHERS
                else:
                    self._kids[label] += 1
            text = None if not kid else OTHER_KIDS if kid == _OTHERS else kid.hex()
            return self._counters.setdefault((name, reason, kid), _Count(label, text))


def digest_id(session_id: bytes) -> str:
    """The 16 hex digits of a session in events."""
    return hashlib.blake2b(session_id, digest_size=8).hexdigest()


def _label(name: str, reason: str | None) -> str:
    return name if reason is None else f"{name}-{reason}"

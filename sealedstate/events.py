"""What happened, as structured log records, counters and events for whoever wants to watch.

Knows names, key ids and digests. Does not know sessions, keys' secrets or any exporter: an observer
is a function that takes an `Event`.

Each event is one record of the logger ``sealedstate``, at INFO, or at WARNING or ERROR where the
operator should look. Its fields stand in ``record.sealedstate``, a dict, beside the readable
message. Of a session only a digest of its id is told, of a key its kid. docs/events.md lists all
events.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ._forks import ForkSafeLock
from .errors import ConfigurationError

_log = logging.getLogger("sealedstate")
# A flood of invented kids must fill neither the memory nor anybody's metrics: of each label so many
# are counted by their names, and the others together.
MAX_KIDS = 256
OTHER_KIDS = "others"
NOTED_AT_ONCE = 256
OBSERVER_FAILED = "observer-failed"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `reason`: why, of a fixed set of words; `kid`: 8 hex digits;
    `session`: 16 hex digits that tell sessions apart; `detail`: a sentence for people.

    `counted_kid` is what a metric may be labelled with: the kid or, once too many came, ``others``.
    """

    name: str
    reason: str | None = None
    kid: str | None = None
    session: str | None = None
    detail: str | None = None
    counted_kid: str | None = None

    @property
    def label(self) -> str:
        """The name that it is counted under: ``refused-tag``, say."""
        return _label(self.name, self.reason)


class Observer(Protocol):
    """Whoever watches. It is called in the thread of the request, or of the one that tends the
    keys, and by several at once: so it should be quick and needs its own lock. What it raises is
    logged, and hurts nobody.
    """

    def __call__(self, event: Event, /) -> object: ...


class EventLog:
    """Counts, logs and passes on the events of one application, of all its threads.

    Raises ConfigurationError for an observer that can't be called.
    """

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = tuple(observers)
        for observer in self._observers:
            if not callable(observer):
                raise ConfigurationError(f"observers: {type(observer).__name__} is not a function")
        self._counts: Counter[str] = Counter()
        self._by_kid: dict[str, Counter[str]] = {}
        # What was noted and is not counted yet: appending needs no lock, and counting is cheaper
        # for many at once.
        self._noted: list[tuple[str, str | None, bytes | None]] = []
        self._complaints: set[tuple[int, type[Exception]]] = set()
        self._lock = ForkSafeLock()

    @property
    def counts(self) -> Counter[str]:
        """How often each label was noted, as a copy."""
        with self._lock:
            self._count_noted()
            return self._counts.copy()

    @property
    def by_kid(self) -> Counter[tuple[str, str]]:
        """How often each (label, kid) was noted, as a copy. Of a label, `MAX_KIDS` kids at most;
        further ones are counted as ``others``.
        """
        with self._lock:
            self._count_noted()
            kids = self._by_kid.items()
            return Counter({(label, kid): n for label, counts in kids for kid, n in counts.items()})

    def emit(
        self,
        name: str,
        reason: str | None = None,
        *,
        kid: bytes | None = None,
        session_id: bytes | None = None,
        detail: str | None = None,
        level: int = logging.INFO,
    ) -> None:
        """Count, log and pass on one event. Never raises for an observer that fails."""
        self._noted.append((name, reason, kid))
        is_logged = _log.isEnabledFor(level)
        if not (is_logged or self._observers):
            if len(self._noted) >= NOTED_AT_ONCE:
                with self._lock:
                    self._count_noted()
            return  # mostly nobody looks, and a request has better things to do than to digest
        event = self._event(name, reason, kid, session_id, detail)
        if is_logged:
            _log.log(level, "%s", _message(event), extra={"sealedstate": _fields(event)})
        for number in range(len(self._observers)):
            self._pass_on(number, event)

    def _event(
        self,
        name: str,
        reason: str | None,
        kid: bytes | None,
        session_id: bytes | None,
        detail: str | None,
    ) -> Event:
        with self._lock:
            self._count_noted()
            counted_kid = self._counted_kid(_label(name, reason), kid.hex()) if kid else None
        kid_text = kid.hex() if kid else None
        return Event(name, reason, kid_text, _digest(session_id), detail, counted_kid)

    def _count_noted(self) -> None:
        """Count what was noted until now. Needs the lock."""
        noted = self._noted
        # Others go on appending: what is counted is cut off at once, and nothing else.
        many = len(noted)
        counting, noted[:many] = noted[:many], []
        for (name, reason, kid), times in Counter(counting).items():
            label = _label(name, reason)
            self._counts[label] += times
            if kid:
                kids = self._by_kid.setdefault(label, Counter())
                kids[self._counted_kid(label, kid.hex())] += times

    def _counted_kid(self, label: str, kid: str) -> str:
        """The name that the kid is counted under."""
        kids = self._by_kid.setdefault(label, Counter())
        return kid if kid in kids or len(kids) < MAX_KIDS else OTHER_KIDS

    def _pass_on(self, number: int, event: Event) -> None:
        try:
            self._observers[number](event)
        except Exception as error:
            self._noted.append((OBSERVER_FAILED, None, None))
            # In full once: at each request, it would bury everything else.
            if (number, type(error)) not in self._complaints:
                self._complaints.add((number, type(error)))
                _log.exception("an observer failed at %s", event.label)


def _label(name: str, reason: str | None) -> str:
    return name if reason is None else f"{name}-{reason}"


def _digest(session_id: bytes | None) -> str | None:
    return None if session_id is None else hashlib.blake2b(session_id, digest_size=8).hexdigest()


def _fields(event: Event) -> dict[str, str]:
    fields = {
        "event": event.name,
        "reason": event.reason,
        "kid": event.kid,
        "session": event.session,
        "detail": event.detail,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _message(event: Event) -> str:
    facts = [f"{name}={value}" for name, value in _fields(event).items() if name not in _SPOKEN]
    return " ".join([event.label, *facts, *([] if event.detail is None else [event.detail])])


_SPOKEN = {"event", "reason", "detail"}

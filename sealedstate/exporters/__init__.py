"""Observers that count and measure events in metrics systems.

Each exporter is a module that is imported separately, so an application needs only the library that
it uses. What they count and measure is the same, and is here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from ..errors import SealedStateError
from ..events import Event
from ..keeper import Keeper
from ..keyring import KeyState
from ..rotation.source import RotatingKeySource

__all__ = ["labels_of"]

# Each kid is a time series. The other events have a kid that never returns.
_EVENTS_BY_KID = frozenset({"opened", "refused"})
# From a session in the process's memory to a store that times out.
_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0)
# With the limits of the profiles, and of servers.
_BYTES = (256, 512, 1024, 2000, 2900, 4096, 6000, 7600, 8192, 11000, 13500, 16384)
# How long a count that asks the store is kept, in seconds.
_COUNT_EVERY = 60
_PLACES = ("core", "overflow", "spilled")


class Instrument(NamedTuple):
    """A histogram with `buckets`, or a counter or a gauge without."""

    name: str
    unit: str
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


class Measure(NamedTuple):
    """A value for an instrument or a gauge. `labels`: the values of its labels."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


INSTRUMENTS = (
    Instrument(
        "open_duration", "seconds", "How long opening a session took.", ("outcome",), _SECONDS
    ),
    Instrument("save_duration", "seconds", "How long saving a session took.", (), _SECONDS),
    Instrument(
        "store_call_duration",
        "seconds",
        "How long a call of the store took.",
        ("operation", "outcome"),
        _SECONDS,
    ),
    Instrument(
        "cookie_header",
        "bytes",
        "What cookies took in the Cookie header of a request that brought a session.",
        ("whose",),
        _BYTES,
    ),
    Instrument("saved_cookies", "bytes", "What the cookies of a saved session take.", (), _BYTES),
    Instrument(
        "budget_used",
        "ratio",
        "Which share of the room for its cookies a saved session takes.",
        (),
        (0.1, 0.25, 0.5, 0.75, 0.9, 1.0),
    ),
    Instrument("saved_parts", "", "Parts of saved sessions, by their place.", ("place",)),
)
GAUGES = (
    Instrument("ring_sequence", "", "Grows with each change of the ring."),
    Instrument("ring_read_timestamp", "seconds", "When this process last read the ring."),
    Instrument("ring_rotate_every", "seconds", "For how long each key of the ring seals."),
    Instrument("ring_refused", "", "Whether the stored ring is refused, 0 or 1."),
    Instrument(
        "key_activation_timestamp",
        "seconds",
        "From when a key seals that seals now or is announced.",
        ("kid", "state"),
    ),
    Instrument("live_sessions", "", "Sessions that are not over, as the store lists them."),
    Instrument("logouts_owed", "", "Logouts of which a service does not know, by the store."),
)


def labels_of(event: Event) -> dict[str, str]:
    """The labels of one count: event, reason and kid, "" for a missing value.

    The numbers of reasons and of kids are limited. That of sessions is not, so they are no label.
    """
    kid = event.counted_kid if event.name in _EVENTS_BY_KID else None
    return {"event": event.name, "reason": event.reason or "", "kid": kid or ""}


def measures_of(event: Event) -> list[Measure]:
    """What an event adds to the instruments."""
    name, seconds, numbers = event.name, event.seconds, event.numbers
    if seconds is None:
        return []
    if name == "store-call":
        labels = event.operation or "", event.reason or ""
        return [Measure("store_call_duration", seconds, labels)]
    if numbers is None:
        return []
    if name != "saved":
        return [
            Measure("open_duration", seconds, (name,)),
            Measure("cookie_header", numbers["cookie_bytes"], ("session",)),
            Measure("cookie_header", numbers["foreign_bytes"], ("other",)),
        ]
    taken, room = numbers["cookie_bytes"], numbers["room_bytes"]
    counts = {place: numbers[f"{place}_parts"] for place in _PLACES}
    return [
        Measure("save_duration", seconds),
        Measure("saved_cookies", taken),
        Measure("budget_used", taken / room),
        *(Measure("saved_parts", count, (place,)) for place, count in counts.items()),
    ]


class Gauges:
    """The values of GAUGES for one keeper, read when metrics are collected.

    `counts`: functions that ask the store, by the names of their gauges. The answer is kept for a
    minute, and a gauge is missing while the store does not answer.
    """

    def __init__(self, keeper: Keeper, counts: Mapping[str, Callable[[], int] | None]) -> None:
        self._deployment = keeper.deployment
        self._counts = {name: count for name, count in counts.items() if count is not None}
        self._counted: dict[str, int] = {}
        self._counted_at = -math.inf

    def read(self) -> Iterator[Measure]:
        """The values of all gauges. Asks the store at most once a minute, only for `counts`."""
        deployment = self._deployment
        source, now = deployment.key_source, int(deployment.now())
        keyring = deployment.keyring()
        if isinstance(source, RotatingKeySource):
            ring = source.ring
            yield Measure("ring_sequence", ring.sequence)
            yield Measure("ring_read_timestamp", source.read_at())
            yield Measure("ring_rotate_every", ring.schedule.rotate_every)
            yield Measure("ring_refused", source.last_error is not None)
        for key in keyring.keys:
            if (state := keyring.state(key, now)) in (KeyState.PRIMARY, KeyState.PENDING):
                labels = key.kid.hex(), state.value
                yield Measure("key_activation_timestamp", key.activates_at, labels)
        running = deployment.settings.monotonic()
        if self._counts and running >= self._counted_at + _COUNT_EVERY:
            self._counted_at, self._counted = running, {}
            for name, count in self._counts.items():
                try:
                    self._counted[name] = count()
                except SealedStateError:
                    continue  # the events of the store say so
        for name, number in self._counted.items():
            yield Measure(name, number)

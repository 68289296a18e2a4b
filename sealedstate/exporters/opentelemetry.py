"""Events as metrics of OpenTelemetry: ``sealedstate.events``, and durations and sizes.

The attributes of the counter are ``sealedstate.event``, ``sealedstate.reason`` and
``sealedstate.kid``, if the event has them. Only the metrics API of OpenTelemetry is used: the meter
provider decides where the numbers go, and without one, nothing is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from ..errors import ConfigurationError
from ..events import Event
from ..keeper import Keeper
from . import GAUGES, INSTRUMENTS, Gauges, labels_of, measures_of

try:
    from opentelemetry.metrics import (
        CallbackOptions,
        Counter,
        Histogram,
        MeterProvider,
        Observation,
        get_meter,
    )
except ImportError as missing:
    raise ConfigurationError(
        "observers: OpenTelemetry needs its library: pip install sealedstate[opentelemetry]"
    ) from missing

__all__ = ["OpenTelemetryObserver"]

# The units of UCUM, as OpenTelemetry writes them.
UNITS = {"seconds": "s", "bytes": "By", "ratio": "1", "": "1"}


class OpenTelemetryObserver:
    """Counts and measures events with a meter of `meter_provider`.

    The default is the process's provider, which may be set later; counting then begins at that
    time.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        meter = self._meter = get_meter("sealedstate", meter_provider=meter_provider)
        self._events = meter.create_counter(
            "sealedstate.events", unit="{event}", description="What happened to sessions and keys."
        )
        self._measured: dict[str, tuple[Counter | Histogram, tuple[str, ...]]] = {}
        for name, unit, description, labels, buckets in INSTRUMENTS:
            whole = _dot_name(name)
            made: Counter | Histogram
            if buckets:
                made = meter.create_histogram(
                    whole, UNITS[unit], description, explicit_bucket_boundaries_advisory=buckets
                )
            else:
                made = meter.create_counter(whole, "{part}", description)
            self._measured[name] = made, tuple(f"sealedstate.{label}" for label in labels)

    def __call__(self, event: Event, /) -> None:
        labels = labels_of(event).items()
        self._events.add(1, {f"sealedstate.{name}": value for name, value in labels if value})
        for name, value, values in measures_of(event):
            instrument, names = self._measured[name]
            attributes = dict(zip(names, values, strict=True))
            if isinstance(instrument, Histogram):
                instrument.record(value, attributes)
            else:
                instrument.add(value, attributes)

    def watch(
        self,
        keeper: Keeper,
        *,
        live_sessions: Callable[[], int] | None = None,
        logouts_owed: Callable[[], int] | None = None,
    ) -> None:
        """Show the ring and the keys of `keeper` at each collection, as gauges.

        `live_sessions` and `logouts_owed` may ask the store, and are called once a minute at most.
        """
        gauges = Gauges(keeper, {"live_sessions": live_sessions, "logouts_owed": logouts_owed})
        for name, unit, description, labels, _ in GAUGES:
            observe = partial(_observe, gauges, name, [f"sealedstate.{label}" for label in labels])
            whole = _dot_name(name)
            self._meter.create_observable_gauge(whole, [observe], UNITS[unit], description)


def _dot_name(name: str) -> str:
    """The name by the conventions of OpenTelemetry: ``sealedstate.open.duration``."""
    return f"sealedstate.{name.replace('_', '.')}"


def _observe(
    gauges: Gauges, name: str, labels: Sequence[str], _: CallbackOptions
) -> Iterable[Observation]:
    for measure in gauges.read():
        if measure.name == name:
            yield Observation(measure.value, dict(zip(labels, measure.labels, strict=True)))

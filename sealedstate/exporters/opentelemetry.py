"""Events as a counter of OpenTelemetry: ``sealedstate.events``.

Its attributes are ``sealedstate.event``, ``sealedstate.reason`` and ``sealedstate.kid``, if the
event has them. The sizes of Cookie fields are a histogram, ``sealedstate.cookie_bytes``, whose
attribute ``sealedstate.cookies`` is ``session``, ``others`` or ``all``.

Only the metrics API of OpenTelemetry is used: the meter provider decides where the numbers go, and
without one, nothing is counted.
"""

from __future__ import annotations

from ..errors import ConfigurationError
from ..events import Event
from . import COOKIE_BUCKETS, cookie_sizes, labels_of

try:
    from opentelemetry.metrics import MeterProvider, get_meter
except ImportError as missing:
    raise ConfigurationError(
        "observers: OpenTelemetry needs its library: pip install sealedstate[opentelemetry]"
    ) from missing

__all__ = ["OpenTelemetryObserver"]


class OpenTelemetryObserver:
    """Counts events with a meter of `meter_provider`.

    The default is the process's provider, which may be set later; counting then begins at that
    time.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        meter = get_meter("sealedstate", meter_provider=meter_provider)
        self._events = meter.create_counter(
            "sealedstate.events", unit="{event}", description="What happened to sessions and keys."
        )

        name, text = "sealedstate.cookie_bytes", "Sizes of Cookie fields."
        try:
            self._cookies = meter.create_histogram(
                name, "By", text, explicit_bucket_boundaries_advisory=COOKIE_BUCKETS
            )
        except TypeError:  # before 1.30, a view of the SDK sets the buckets
            self._cookies = meter.create_histogram(name, "By", text)

    def __call__(self, event: Event, /) -> None:
        if sizes := cookie_sizes(event):
            for name, size in sizes.items():
                self._cookies.record(size, {"sealedstate.cookies": name})
            return
        labels = labels_of(event).items()
        self._events.add(1, {f"sealedstate.{name}": value for name, value in labels if value})

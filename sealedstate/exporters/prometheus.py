"""Events as metrics of Prometheus.

They are ``sealedstate_events_total{event, reason, kid}``, histograms of durations and sizes, and
gauges of the ring, which docs/events.md lists. The application serves the metrics, with
`prometheus_client.make_wsgi_app()` for example.

Several processes (gunicorn, uWSGI) need the multiprocess mode of prometheus_client: the variable
PROMETHEUS_MULTIPROC_DIR names an empty directory before Python starts, and `/metrics` is served
from a registry with a `MultiProcessCollector`. The observer then counts in files of that directory,
so every process must be allowed to write to it. docs/events.md has a complete example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from ..errors import ConfigurationError
from ..events import Event
from ..keeper import Keeper
from . import GAUGES, INSTRUMENTS, Gauges, labels_of, measures_of

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as missing:
    raise ConfigurationError(
        "observers: Prometheus needs its library: pip install sealedstate[prometheus]"
    ) from missing

__all__ = ["PrometheusObserver"]


class PrometheusObserver:
    """Counts and measures events in `registry`.

    The default is the registry that prometheus_client serves. One observer may watch several
    applications. Two observers in one registry need different namespaces. Raises
    ConfigurationError.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, namespace: str = "sealedstate"
    ) -> None:
        self._registry = REGISTRY if registry is None else registry
        self._namespace = namespace
        self._measured: dict[str, Counter | Histogram] = {}
        counter = partial(Counter, namespace=namespace, registry=self._registry)
        histogram = partial(Histogram, namespace=namespace, registry=self._registry)
        try:
            self._events = counter(
                "events", "What happened to sessions and keys.", ("event", "reason", "kid")
            )
            for name, unit, description, labels, buckets in INSTRUMENTS:
                self._measured[name] = (
                    histogram(name, description, labels, unit=unit, buckets=buckets)
                    if buckets
                    else counter(name, description, labels, unit=unit)
                )
        except ValueError as error:
            raise ConfigurationError(
                f"observers: {error}; one PrometheusObserver can watch several applications, and"
                " two of them need different namespaces"
            ) from error

    def __call__(self, event: Event, /) -> None:
        self._events.labels(**labels_of(event)).inc()
        for name, value, labels in measures_of(event):
            metric = self._measured[name]
            one = metric.labels(*labels) if labels else metric
            if isinstance(one, Histogram):
                one.observe(value)
            else:
                one.inc(value)

    def watch(
        self,
        keeper: Keeper,
        registry: CollectorRegistry | None = None,
        *,
        live_sessions: Callable[[], int] | None = None,
        logouts_owed: Callable[[], int] | None = None,
    ) -> None:
        """Show the ring and the keys of `keeper` at each collection, as gauges.

        `registry`: where they are served, by default the observer's; in the multiprocess mode, that
        with the MultiProcessCollector. `live_sessions` and `logouts_owed` may ask the store, and
        are called once a minute at most. Raises ConfigurationError if the registry has such gauges.
        """
        gauges = Gauges(keeper, {"live_sessions": live_sessions, "logouts_owed": logouts_owed})
        registry = self._registry if registry is None else registry
        try:
            registry.register(_GaugeCollector(gauges, self._namespace))
        except ValueError as error:
            raise ConfigurationError(
                f"observers: {error}; watch one keeper per registry"
            ) from error


class _GaugeCollector(Collector):
    def __init__(self, gauges: Gauges, namespace: str) -> None:
        self._gauges, self._namespace = gauges, namespace

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """All gauges without values: a registry asks this when it gets the collector."""
        for name, unit, description, labels, _ in GAUGES:
            # The family adds the unit to its name.
            whole = f"{self._namespace}_{name}"
            yield GaugeMetricFamily(whole, description, labels=labels, unit=unit)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        families = dict(zip((each.name for each in GAUGES), self.describe(), strict=True))
        for name, value, labels in self._gauges.read():
            families[name].add_metric(labels, value)
        return [family for family in families.values() if family.samples]

"""Events as a counter of Prometheus: ``sealedstate_events_total{event, reason, kid}``.

Knows prometheus_client. Does not know how metrics are served: `prometheus_client.make_wsgi_app()`
does that, or whatever the application already has.

Several processes (gunicorn, uWSGI) need the multiprocess mode of prometheus_client, which is chosen
outside: the variable PROMETHEUS_MULTIPROC_DIR names an empty directory before Python starts, and
`/metrics` is served from a registry with a `MultiProcessCollector`. The observer then counts in
files of that directory, and so needs a path that every process may write to. docs/events.md shows
it whole.
"""

from __future__ import annotations

from ..errors import ConfigurationError
from ..events import Event
from . import labels_of

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter
except ImportError as missing:
    raise ConfigurationError(
        "observers: Prometheus needs its library: pip install sealedstate[prometheus]"
    ) from missing


class PrometheusObserver:
    """Counts events in `registry`, by default the one that prometheus_client serves by itself.

    One observer may watch several applications. Two in one registry need different namespaces.
    Raises ConfigurationError.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, namespace: str = "sealedstate"
    ) -> None:
        try:
            self._events = Counter(
                "events",
                "What happened to sessions and keys.",
                ("event", "reason", "kid"),
                namespace=namespace,
                registry=REGISTRY if registry is None else registry,
            )
        except ValueError as error:
            raise ConfigurationError(
                f"observers: {error}; one PrometheusObserver can watch several applications, and"
                " two of them need different namespaces"
            ) from error

    def __call__(self, event: Event, /) -> None:
        self._events.labels(**labels_of(event)).inc()

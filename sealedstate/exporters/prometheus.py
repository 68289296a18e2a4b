"""Events as a counter of Prometheus, and sizes of Cookie fields as a histogram.

They are ``sealedstate_events_total{event, reason, kid}`` and ``sealedstate_cookie_bytes{cookies}``,
where `cookies` is ``session``, ``others`` or ``all``. The application serves the metrics, with
`prometheus_client.make_wsgi_app()` for example.

Several processes (gunicorn, uWSGI) need the multiprocess mode of prometheus_client: the variable
PROMETHEUS_MULTIPROC_DIR names an empty directory before Python starts, and `/metrics` is served
from a registry with a `MultiProcessCollector`. The observer then counts in files of that directory,
so every process must be allowed to write to it. docs/events.md has a complete example.
"""

from __future__ import annotations

from ..errors import ConfigurationError
from ..events import Event
from . import COOKIE_BUCKETS, cookie_sizes, labels_of

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
except ImportError as missing:
    raise ConfigurationError(
        "observers: Prometheus needs its library: pip install sealedstate[prometheus]"
    ) from missing

__all__ = ["PrometheusObserver"]


class PrometheusObserver:
    """Counts events in `registry`.

    The default is the registry that prometheus_client serves. One observer may watch several
    applications. Two observers in one registry need different namespaces. Raises
    ConfigurationError.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, namespace: str = "sealedstate"
    ) -> None:
        registry = REGISTRY if registry is None else registry
        try:
            self._events = Counter(
                "events",
                "What happened to sessions and keys.",
                ("event", "reason", "kid"),
                namespace=namespace,
                registry=registry,
            )
            self._cookies = Histogram(
                "cookie_bytes",
                "Bytes of Cookie fields: of the session, of other cookies, and of all.",
                ("cookies",),
                namespace=namespace,
                registry=registry,
                buckets=COOKIE_BUCKETS,
            )
        except ValueError as error:
            raise ConfigurationError(
                f"observers: {error}; one PrometheusObserver can watch several applications, and"
                " two of them need different namespaces"
            ) from error

    def __call__(self, event: Event, /) -> None:
        if sizes := cookie_sizes(event):
            for name, size in sizes.items():
                self._cookies.labels(name).observe(size)
            return
        self._events.labels(**labels_of(event)).inc()

"""What every exporter counts: events by name, reason and kid, and nothing else."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum
from prometheus_client import CollectorRegistry

from sealedstate import ConfigurationError
from sealedstate.events import MAX_KIDS, OTHER_KIDS, Event, EventLog
from sealedstate.exporters.opentelemetry import OpenTelemetryObserver
from sealedstate.exporters.prometheus import PrometheusObserver
from tests.support.scrapes import Counts, counts_on, page_of

KID = bytes.fromhex("0a0b0c0d")
ID = bytes(range(100, 116))


class Exporter(NamedTuple):
    """An observer, what it counted, and all that it shows."""

    observer: Callable[[Event], None]
    counts: Callable[[], Counts]
    shown: Callable[[], str]


def prometheus() -> Exporter:
    registry = CollectorRegistry()
    return Exporter(
        PrometheusObserver(registry),
        lambda: counts_on(page_of(registry)),
        lambda: page_of(registry),
    )


def opentelemetry() -> Exporter:
    reader = InMemoryMetricReader()

    def counts() -> Counts:
        data = reader.get_metrics_data()
        assert data is not None
        metric = data.resource_metrics[0].scope_metrics[0].metrics[0]
        assert (metric.name, metric.unit) == ("sealedstate.events", "{event}")
        assert isinstance(metric.data, Sum)
        assert metric.data.is_monotonic
        found: Counts = {}
        for point in metric.data.data_points:
            given = {name: str(value) for name, value in (point.attributes or {}).items()}
            assert "" not in given.values()
            names = ("event", "reason", "kid")
            event, reason, kid = (given.pop(f"sealedstate.{name}", "") for name in names)
            assert given == {}
            found[event, reason, kid] = point.value
        return found

    observer = OpenTelemetryObserver(MeterProvider([reader]))
    return Exporter(observer, counts, lambda: str(reader.get_metrics_data()))


@pytest.fixture(params=[prometheus, opentelemetry], ids=lambda make: make.__name__)
def exporter(request: pytest.FixtureRequest) -> Exporter:
    made: Exporter = request.param()
    return made


def test_events_are_counted_by_name_reason_and_kid_and_nothing_else(exporter: Exporter) -> None:
    seen: list[Event] = []
    events = EventLog([exporter.observer, seen.append])
    events.emit("opened", kid=KID)
    events.emit("opened", kid=KID, session_id=ID, detail="a long story")
    events.emit("refused", "kid-unknown", kid=b"\xff" * 4)
    events.emit("refused", "tag")
    events.emit("saved")
    events.emit("ring-rotated", kid=KID)
    assert exporter.counts() == {
        ("opened", "", "0a0b0c0d"): 2,
        ("refused", "kid-unknown", "ffffffff"): 1,
        ("refused", "tag", ""): 1,
        ("saved", "", ""): 1,
        ("ring-rotated", "", ""): 1,
    }
    session, shown = seen[1].session, exporter.shown()
    assert session is not None
    for secret in (session, ID.hex(), "story", "session="):
        assert secret not in shown


def test_flood_of_invented_kids_makes_a_limited_number_of_series(exporter: Exporter) -> None:
    events = EventLog([exporter.observer])
    for number in range(2 * MAX_KIDS):
        events.emit("refused", "kid-unknown", kid=number.to_bytes(4, "big"))
    events.emit("opened", kid=KID)
    counts = exporter.counts()
    assert len(counts) == MAX_KIDS + 2
    assert counts["refused", "kid-unknown", OTHER_KIDS] == MAX_KIDS
    assert counts["opened", "", "0a0b0c0d"] == 1


@pytest.mark.parametrize(
    ("extra", "module"),
    [("prometheus", "prometheus_client"), ("opentelemetry", "opentelemetry.metrics")],
)
def test_missing_library_raises_with_the_command_that_installs_it(
    extra: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"sealedstate.exporters.{extra}")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf"pip install sealedstate\[{extra}\]"):
        importlib.import_module(f"sealedstate.exporters.{extra}")


# A process can set its meter provider once, so this runs in another process.
SET_LATER = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sealedstate.events import EventLog
from sealedstate.exporters.opentelemetry import OpenTelemetryObserver

events = EventLog([OpenTelemetryObserver()])
events.emit("saved")
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
events.emit("saved")
data = reader.get_metrics_data()
(point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
assert dict(point.attributes) == {"sealedstate.event": "saved"}
assert point.value == 1, point.value
"""


def test_meter_provider_of_the_process_may_be_set_after_the_observer() -> None:
    OpenTelemetryObserver()(Event("saved"))  # without a provider nothing is counted
    subprocess.run([sys.executable, "-c", SET_LATER], check=True)

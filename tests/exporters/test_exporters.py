"""What every exporter counts: events by name, reason and kid, and nothing else."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum
from prometheus_client import CollectorRegistry

from sealedstate import ConfigurationError
from sealedstate.events import MAX_KIDS, OTHER_KIDS, Event, EventLog
from sealedstate.exporters.opentelemetry import OpenTelemetryObserver
from sealedstate.exporters.prometheus import PrometheusObserver
from tests.support.jar import Browser, Clock, keeper
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
        (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
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


def test_cookie_fields_are_histograms_of_ours_of_others_and_of_both() -> None:
    registry, reader = CollectorRegistry(), InMemoryMetricReader()
    observers = [PrometheusObserver(registry), OpenTelemetryObserver(MeterProvider([reader]))]
    browser = Browser(keeper(Clock(), observers=observers))
    browser.visit(lambda session: session.update(cart="tea"))
    browser.jar.receive([f"analytics={'x' * 3990}; Path=/", f"banner={'x' * 3000}; Path=/"])
    browser.read()
    (ours,) = browser.jar.ours().values()
    session, others = len(f"__Host-Http-s={ours}"), 4000 + 3007 + len("; ")
    both = len(browser.jar.header())
    page = page_of(registry)
    for name, size in (("session", session), ("others", others), ("all", both)):
        (found,) = re.findall(rf'cookie_bytes_sum{{cookies="{name}"}} ([\d.]+)', page)
        assert abs(float(found) - size) <= len("; ")
        assert f'cookie_bytes_count{{cookies="{name}"}} 1.0' in page
    assert 'cookie_bytes_bucket{cookies="all",le="6144.0"} 0.0' in page
    assert 'cookie_bytes_bucket{cookies="all",le="7600.0"} 1.0' in page
    assert 'event="cookie-field"' not in page
    data = reader.get_metrics_data()
    assert data is not None
    metrics = {each.name: each for each in data.resource_metrics[0].scope_metrics[0].metrics}
    points: Any = metrics["sealedstate.cookie_bytes"].data.data_points
    sums = {point.attributes["sealedstate.cookies"]: point.sum for point in points}
    assert sums["all"] == sums["session"] + sums["others"] == both
    assert 7600 in points[0].explicit_bounds


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

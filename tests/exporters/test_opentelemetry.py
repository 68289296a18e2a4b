"""Events in OpenTelemetry, as a reader of the real SDK collects them."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric, Sum

from sealedstate import ConfigurationError
from sealedstate.events import MAX_KIDS, OTHER_KIDS, Event, EventLog
from sealedstate.exporters.opentelemetry import OpenTelemetryObserver

KID = bytes.fromhex("0a0b0c0d")
ID = bytes(range(100, 116))

Watched = tuple[EventLog, InMemoryMetricReader]


@pytest.fixture
def watched() -> Watched:
    """A journal, and a reader of what its observer counted."""
    reader = InMemoryMetricReader()
    return EventLog([OpenTelemetryObserver(MeterProvider([reader]))]), reader


def metrics_of(reader: InMemoryMetricReader) -> list[Metric]:
    data = reader.get_metrics_data()
    return (
        []
        if data is None
        else [
            metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
    )


def counts_of(reader: InMemoryMetricReader) -> dict[tuple[tuple[str, object], ...], float]:
    """Attributes -> how often."""
    (metric,) = metrics_of(reader)
    assert isinstance(metric.data, Sum)
    return {
        tuple(sorted((point.attributes or {}).items())): point.value
        for point in metric.data.data_points
    }


def attributes(**given: str) -> tuple[tuple[str, object], ...]:
    return tuple(sorted((f"sealedstate.{name}", value) for name, value in given.items()))


def test_events_are_counted_by_name_reason_and_kid(watched: Watched) -> None:
    journal, reader = watched
    journal.emit("opened", kid=KID)
    journal.emit("opened", kid=KID)
    journal.emit("refused", "kid-unknown", kid=b"\xff" * 4)
    journal.emit("ring-rotated", kid=KID)
    assert counts_of(reader) == {
        attributes(event="opened", kid="0a0b0c0d"): 2,
        attributes(event="refused", reason="kid-unknown", kid="ffffffff"): 1,
        attributes(event="ring-rotated"): 1,
    }


def test_it_is_a_counter_that_only_rises(watched: Watched) -> None:
    journal, reader = watched
    journal.emit("saved")
    (metric,) = metrics_of(reader)
    assert (metric.name, metric.unit) == ("sealedstate.events", "{event}")
    assert isinstance(metric.data, Sum)
    assert metric.data.is_monotonic


def test_nothing_of_a_session_is_counted(watched: Watched) -> None:
    journal, reader = watched
    journal.emit("opened", kid=KID, session_id=ID, detail="a long story")
    assert counts_of(reader) == {attributes(event="opened", kid="0a0b0c0d"): 1}


def test_a_flood_of_invented_kids_makes_no_flood_of_series(watched: Watched) -> None:
    journal, reader = watched
    for number in range(2 * MAX_KIDS):
        journal.emit("refused", "kid-unknown", kid=number.to_bytes(4, "big"))
    found = counts_of(reader)
    assert len(found) == MAX_KIDS + 1
    others = attributes(event="refused", reason="kid-unknown", kid=OTHER_KIDS)
    assert found[others] == MAX_KIDS


def test_without_a_meter_provider_nothing_is_counted_and_nothing_breaks() -> None:
    OpenTelemetryObserver()(Event("saved"))


# The process's own meter provider can be set once: hence a process of its own.
SET_LATER = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sealedstate.events import EventLog
from sealedstate.exporters.opentelemetry import OpenTelemetryObserver

journal = EventLog([OpenTelemetryObserver()])
journal.emit("saved")
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
journal.emit("saved")
data = reader.get_metrics_data()
(point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
assert dict(point.attributes) == {"sealedstate.event": "saved"}
assert point.value == 1, point.value
"""


def test_the_process_s_own_meter_provider_may_be_set_after_the_observer_was_made() -> None:
    subprocess.run([sys.executable, "-c", SET_LATER], check=True)


def test_without_its_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sealedstate.exporters.opentelemetry")
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    with pytest.raises(ConfigurationError, match=r"pip install sealedstate\[opentelemetry\]"):
        importlib.import_module("sealedstate.exporters.opentelemetry")

"""Events in OpenTelemetry, as a reader of its SDK collects them."""

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

Observed = tuple[EventLog, InMemoryMetricReader]


@pytest.fixture
def observed() -> Observed:
    """An event log, and a reader of what its observer counts."""
    reader = InMemoryMetricReader()
    return EventLog([OpenTelemetryObserver(MeterProvider([reader]))]), reader


def metric_of(reader: InMemoryMetricReader) -> Metric:
    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    return metric


def counts_of(reader: InMemoryMetricReader) -> dict[tuple[tuple[str, object], ...], float]:
    """Attributes -> count."""
    data = metric_of(reader).data
    assert isinstance(data, Sum)
    return {
        tuple(sorted((point.attributes or {}).items())): point.value for point in data.data_points
    }


def attributes(**given: str) -> tuple[tuple[str, object], ...]:
    return tuple(sorted((f"sealedstate.{name}", value) for name, value in given.items()))


def test_events_are_counted_by_name_reason_and_kid_and_nothing_else(observed: Observed) -> None:
    events, reader = observed
    events.emit("opened", kid=KID)
    events.emit("opened", kid=KID, session_id=ID, detail="a long story")
    events.emit("refused", "kid-unknown", kid=b"\xff" * 4)
    events.emit("ring-rotated", kid=KID)
    assert counts_of(reader) == {
        attributes(event="opened", kid="0a0b0c0d"): 2,
        attributes(event="refused", reason="kid-unknown", kid="ffffffff"): 1,
        attributes(event="ring-rotated"): 1,
    }
    metric = metric_of(reader)
    assert (metric.name, metric.unit) == ("sealedstate.events", "{event}")
    assert isinstance(metric.data, Sum)
    assert metric.data.is_monotonic


def test_flood_of_invented_kids_makes_a_limited_number_of_series(observed: Observed) -> None:
    events, reader = observed
    for number in range(2 * MAX_KIDS):
        events.emit("refused", "kid-unknown", kid=number.to_bytes(4, "big"))
    counts = counts_of(reader)
    assert len(counts) == MAX_KIDS + 1
    others = attributes(event="refused", reason="kid-unknown", kid=OTHER_KIDS)
    assert counts[others] == MAX_KIDS


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


def test_missing_library_raises_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "sealedstate.exporters.opentelemetry")
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    with pytest.raises(ConfigurationError, match=r"pip install sealedstate\[opentelemetry\]"):
        importlib.import_module("sealedstate.exporters.opentelemetry")

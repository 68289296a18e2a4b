"""The observer of OpenTelemetry in a process that sets its meter provider late."""

from __future__ import annotations

import subprocess
import sys

from sealedstate.events import Event
from sealedstate.exporters.opentelemetry import OpenTelemetryObserver

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

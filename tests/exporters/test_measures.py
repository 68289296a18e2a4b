"""What exporters measure: durations, sizes, parts by place, and gauges of the ring."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from sealedstate import ConfigurationError, Keeper, Key, Settings
from sealedstate.cli import main
from sealedstate.deployment import Deployment
from sealedstate.errors import StorageUnavailable
from sealedstate.events import Event
from sealedstate.exporters import GAUGES, INSTRUMENTS
from sealedstate.exporters.opentelemetry import OpenTelemetryObserver
from sealedstate.exporters.prometheus import PrometheusObserver
from sealedstate.keyring import export_lookup
from sealedstate.testing import ManualClock
from tests.support.documents import Document
from tests.support.jar import Browser
from tests.support.scrapes import page_of

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
KEYS = [Key.generate(os.urandom).export(), export_lookup(os.urandom(32))]


def samples_of(registry: CollectorRegistry) -> Samples:
    """All but buckets and times of creation."""
    return {
        (sample.name.removeprefix("sealedstate_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page_of(registry))
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created", "_events_total"))
    }


def points_of(reader: InMemoryMetricReader) -> Samples:
    """The same of OpenTelemetry."""
    found: Samples = {}
    data = reader.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        if metric.name == "sealedstate.events":
            continue
        suffixes = {"s": "_seconds", "By": "_bytes", "{part}": "_total"}
        suffix = suffixes.get(metric.unit or "", "")
        name = metric.name.removeprefix("sealedstate.").replace(".", "_") + suffix
        name += "_ratio" if name == "budget_used" else ""
        for point in metric.data.data_points:
            named = frozenset(
                (label.removeprefix("sealedstate."), str(value))
                for label, value in (point.attributes or {}).items()
            )
            if isinstance(point, HistogramDataPoint):
                found[f"{name}_count", named] = point.count
                found[f"{name}_sum", named] = point.sum
            elif isinstance(point, NumberDataPoint):
                found[name, named] = point.value
    return found


def prometheus() -> tuple[Any, Callable[[], Samples]]:
    registry = CollectorRegistry()
    return PrometheusObserver(registry), lambda: samples_of(registry)


def opentelemetry() -> tuple[Any, Callable[[], Samples]]:
    reader = InMemoryMetricReader()
    return OpenTelemetryObserver(MeterProvider([reader])), lambda: points_of(reader)


exporters = pytest.mark.parametrize("make", [prometheus, opentelemetry])


def labelled(samples: Samples, name: str) -> Mapping[str, float]:
    """The samples of a metric with one label at most, by its value."""
    return {
        ",".join(sorted(value for _, value in labels)): number
        for (found, labels), number in samples.items()
        if found == name
    }


@exporters
def test_sizes_durations_and_places_of_a_session_are_measured(make: Any) -> None:
    observer, samples = make()
    events: list[Event] = []
    running = iter(range(10_000))
    keeper = Keeper(
        Settings(
            keys=KEYS,
            storage="memory:",
            accept_weak_store_for=["revocation"],
            part_policies={"notes": "server"},
            observers=[observer, events.append],
            monotonic=lambda: next(running) / 1000,
        )
    )
    browser = Browser(keeper)
    lines = browser.visit(lambda session: session.update(cart="tea", notes="milk"))
    header = browser.jar.header()
    assert keeper.session(f"{header}; theme=dark")["cart"] == "tea"
    keeper.session(f"{keeper.deployment.cookies.name}=x").get("cart")
    found = samples()
    taken = len(lines[0].partition(";")[0])
    assert labelled(found, "saved_cookies_bytes_sum") == {"": taken}
    assert labelled(found, "budget_used_ratio_sum")[""] == pytest.approx(taken / 2900)
    places = labelled(found, "saved_parts_total")
    assert (places["core"], places["spilled"], places.get("overflow", 0)) == (1, 1, 0)
    assert labelled(found, "cookie_header_bytes_count") == {"session": 2, "other": 2}
    sizes = labelled(found, "cookie_header_bytes_sum")
    assert sizes["other"] == len(" theme=dark")
    assert labelled(found, "open_duration_seconds_count") == {"opened": 1, "refused": 1}
    assert labelled(found, "save_duration_seconds_sum")[""] > 0
    calls = labelled(found, "store_call_duration_seconds_count")
    assert calls["answered,create"] == 1
    assert [event.name for event in events if event.numbers] == ["saved", "opened", "refused"]


@exporters
def test_ring_keys_and_counts_of_the_store_are_gauges(make: Any, tmp_path: Path) -> None:
    observer, samples = make()
    clock = ManualClock(1_800_000_000)
    made = f"file:{tmp_path}/keys.json"
    assert main(["keys", "init", f"{tmp_path}/keys.json"]) == 0
    settings = Settings(keys=made, monotonic=clock, rotate_in_process=False)
    keeper = Keeper(Deployment.open(settings))
    counts = iter([3, 4])
    is_down = False

    def count() -> int:
        if is_down:
            raise StorageUnavailable("down")
        return next(counts)

    observer.watch(keeper, live_sessions=count)
    key = keeper.deployment.keyring().keys[0]
    found = samples()
    assert labelled(found, "ring_sequence") == {"": 1}
    assert labelled(found, "ring_refused") == {"": 0}
    assert labelled(found, "ring_rotate_every_seconds") == {"": 86400}
    activation = {f"{key.kid.hex()},primary": key.activates_at}
    assert labelled(found, "key_activation_timestamp_seconds") == activation
    assert [labelled(samples(), "live_sessions") for _ in range(2)] == [{"": 3}] * 2
    clock.forward(61)
    assert labelled(samples(), "live_sessions") == {"": 4}
    clock.forward(61)
    is_down = True
    assert labelled(samples(), "live_sessions") == {}


def test_without_observers_nothing_is_measured() -> None:
    asked: list[float] = []

    def monotonic() -> float:
        asked.append(0)
        return 0

    browser = Browser(Keeper(Settings(keys=KEYS, monotonic=monotonic)))
    before = len(asked)
    browser.visit(lambda session: session.update(cart="tea"))
    browser.read()
    assert len(asked) == before


def test_keeper_is_watched_once_in_a_registry() -> None:
    observer, keeper = PrometheusObserver(CollectorRegistry()), Keeper(Settings(keys=KEYS))
    observer.watch(keeper)
    with pytest.raises(ConfigurationError, match="registry"):
        observer.watch(keeper)


def test_documented_metrics_are_those_of_the_exporter() -> None:
    kinds = {"sealedstate_events_total": ("counter", "event, reason, kid")}
    for each in (*INSTRUMENTS, *GAUGES):
        kind = "gauge" if each in GAUGES else "histogram" if each.buckets else "counter"
        unit = "total" if kind == "counter" else each.unit
        kinds["_".join(filter(None, ("sealedstate", each.name, unit)))] = (
            kind,
            ", ".join(each.labels),
        )
    rows = Document("events.md").table("metrics")
    assert {name: (row[0], row[1]) for name, row in rows.items()} == kinds
    assert all(row[2] for row in rows.values())


def test_documented_watch_shows_the_gauges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").write_text("\n".join(KEYS))
    Path("app.toml").write_text(
        '[sealedstate]\nkeys = "file:keys"\nstorage = "sqlite:store.db"\ncookie_name = "s"\n'
        "secure = false\n"
    )
    registry = CollectorRegistry()
    monkeypatch.setattr("sealedstate.exporters.prometheus.REGISTRY", registry)
    names: dict[str, Any] = {}
    exec(compile(Document("events.md").block("watch"), "watch", "exec"), names)
    Browser(names["keeper"]).visit(lambda session: setattr(session, "subject", "jdoe"))
    assert labelled(samples_of(registry), "live_sessions") == {"": 1}

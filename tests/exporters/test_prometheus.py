"""Events in Prometheus: what stands on the page, in one process and in several."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from sealedstate import ConfigurationError
from sealedstate.events import MAX_KIDS, OTHER_KIDS, Event, EventLog
from sealedstate.exporters.prometheus import PrometheusObserver
from tests.support.client import Client
from tests.support.jar import RING, Browser, Clock, keeper
from tests.support.servers import gunicorn

KID = bytes.fromhex("0a0b0c0d")
ID = bytes(range(100, 116))

Counts = dict[tuple[str, str, str], float]


def counts_on(page: str, name: str = "sealedstate_events_total") -> Counts:
    """(event, reason, kid) -> how often, as whoever scrapes the page reads it."""
    return {
        (sample.labels["event"], sample.labels["reason"], sample.labels["kid"]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


def page_of(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_events_are_counted_by_name_reason_and_kid(registry: CollectorRegistry) -> None:
    journal = EventLog([PrometheusObserver(registry)])
    journal.emit("opened", kid=KID)
    journal.emit("opened", kid=KID)
    journal.emit("refused", "kid-unknown", kid=b"\xff" * 4)
    journal.emit("refused", "tag")
    journal.emit("saved")
    assert counts_on(page_of(registry)) == {
        ("opened", "", "0a0b0c0d"): 2,
        ("refused", "kid-unknown", "ffffffff"): 1,
        ("refused", "tag", ""): 1,
        ("saved", "", ""): 1,
    }


def test_a_key_that_opens_and_seals_nothing_is_no_label(registry: CollectorRegistry) -> None:
    EventLog([PrometheusObserver(registry)]).emit("ring-rotated", kid=KID)
    assert counts_on(page_of(registry)) == {("ring-rotated", "", ""): 1}


def test_nothing_of_a_session_is_on_the_page(registry: CollectorRegistry) -> None:
    seen: list[Event] = []
    journal = EventLog([PrometheusObserver(registry), seen.append])
    journal.emit("opened", kid=KID, session_id=ID, detail="a long story")
    page, (event,) = page_of(registry), seen
    assert event.session is not None
    for secret in (event.session, ID.hex(), "story", "session="):
        assert secret not in page


def test_a_flood_of_invented_kids_makes_no_flood_of_series(registry: CollectorRegistry) -> None:
    journal = EventLog([PrometheusObserver(registry)])
    for number in range(2 * MAX_KIDS):
        journal.emit("refused", "kid-unknown", kid=number.to_bytes(4, "big"))
    journal.emit("opened", kid=KID)
    found = counts_on(page_of(registry))
    assert len(found) == MAX_KIDS + 2
    assert found["refused", "kid-unknown", OTHER_KIDS] == MAX_KIDS
    assert found["opened", "", "0a0b0c0d"] == 1


def test_settings_name_the_observer_and_requests_are_counted(registry: CollectorRegistry) -> None:
    browser = Browser(keeper(Clock(), observers=[PrometheusObserver(registry)]))
    browser.visit(lambda session: session.update(cart="tea"))
    assert browser.read() == {"cart": "tea"}
    kid = RING.keys[0].kid.hex()
    assert counts_on(page_of(registry)) == {("saved", "", ""): 1, ("opened", "", kid): 1}


def test_one_observer_watches_several_applications(registry: CollectorRegistry) -> None:
    observer = PrometheusObserver(registry)
    for _ in range(3):
        EventLog([observer]).emit("saved")
    assert counts_on(page_of(registry)) == {("saved", "", ""): 3}


def test_a_second_observer_of_the_same_name_stops_the_start(registry: CollectorRegistry) -> None:
    PrometheusObserver(registry)
    with pytest.raises(ConfigurationError, match="different namespaces"):
        PrometheusObserver(registry)


def test_applications_are_told_apart_by_namespaces(registry: CollectorRegistry) -> None:
    PrometheusObserver(registry)
    EventLog([PrometheusObserver(registry, namespace="shop")]).emit("saved")
    assert counts_on(page_of(registry), "shop_events_total") == {("saved", "", ""): 1}
    assert counts_on(page_of(registry)) == {}


BY_DEFAULT = """
from prometheus_client import generate_latest
from sealedstate.events import EventLog
from sealedstate.exporters.prometheus import PrometheusObserver

EventLog([PrometheusObserver()]).emit("saved")
print(generate_latest().decode())
"""


def test_without_a_registry_it_counts_where_prometheus_client_serves_from() -> None:
    command = [sys.executable, "-c", BY_DEFAULT]
    page = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert counts_on(page) == {("saved", "", ""): 1}


def test_without_its_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sealedstate.exporters.prometheus")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigurationError, match=r"pip install sealedstate\[prometheus\]"):
        importlib.import_module("sealedstate.exporters.prometheus")


# --- several processes --------------------------------------------------------------------------

# Counts in a process that was forked after the observer was made, as gunicorn --preload does it.
FORKING = """
import os
from sealedstate.events import EventLog
from sealedstate.exporters.prometheus import PrometheusObserver

journal = EventLog([PrometheusObserver()])
journal.emit("ring-rotated")
if os.fork() == 0:
    journal.emit("saved")
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
"""


def test_processes_are_counted_together_whether_forked_or_not(
    tmp_path: Path, registry: CollectorRegistry
) -> None:
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", FORKING], env=environ, check=True)
    MultiProcessCollector(registry, str(tmp_path))  # type: ignore[no-untyped-call]
    assert counts_on(page_of(registry)) == {("ring-rotated", "", ""): 2, ("saved", "", ""): 2}


COUNTING = """
import os

from sealedstate.events import EventLog
from sealedstate.exporters.prometheus import PrometheusObserver

journal = EventLog([PrometheusObserver()])


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/metrics":
        return metrics(environ, start_response)
    if path == "/count":
        journal.emit("saved")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


@pytest.mark.server
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["loaded by each", "preloaded"])
def test_any_worker_serves_what_all_of_them_counted_as_the_documentation_has_it(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "events.md").read_text("utf-8")
    recipe = documented.split("```python\n# metrics.py\n")[1].split("```")[0]
    counted = tmp_path / "counted"
    counted.mkdir()
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(counted)}
    with gunicorn(tmp_path, recipe + COUNTING, *options, environ=environ, workers=2) as server:
        asked, workers = 0, set[bytes]()
        while len(workers) < 2:
            workers.add(Client(server.port).get("/count").body)
            asked += 1
            assert asked < 2000, "one worker answers everything"
        page = Client(server.port).get("/metrics").body.decode()
    assert counts_on(page) == {("saved", "", ""): asked}

"""Events on the page of Prometheus, from one process and from several."""

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
    """(event, reason, kid) -> count, as a scraper reads the page."""
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


def test_events_are_counted_by_name_reason_and_kid_and_nothing_else(
    registry: CollectorRegistry,
) -> None:
    seen: list[Event] = []
    events = EventLog([PrometheusObserver(registry), seen.append])
    events.emit("opened", kid=KID)
    events.emit("opened", kid=KID, session_id=ID, detail="a long story")
    events.emit("refused", "kid-unknown", kid=b"\xff" * 4)
    events.emit("refused", "tag")
    events.emit("saved")
    events.emit("ring-rotated", kid=KID)
    page, session = page_of(registry), seen[1].session
    assert counts_on(page) == {
        ("opened", "", "0a0b0c0d"): 2,
        ("refused", "kid-unknown", "ffffffff"): 1,
        ("refused", "tag", ""): 1,
        ("saved", "", ""): 1,
        ("ring-rotated", "", ""): 1,
    }
    assert session is not None
    for secret in (session, ID.hex(), "story", "session="):
        assert secret not in page


def test_flood_of_invented_kids_makes_a_limited_number_of_series(
    registry: CollectorRegistry,
) -> None:
    events = EventLog([PrometheusObserver(registry)])
    for number in range(2 * MAX_KIDS):
        events.emit("refused", "kid-unknown", kid=number.to_bytes(4, "big"))
    events.emit("opened", kid=KID)
    counts = counts_on(page_of(registry))
    assert len(counts) == MAX_KIDS + 2
    assert counts["refused", "kid-unknown", OTHER_KIDS] == MAX_KIDS
    assert counts["opened", "", "0a0b0c0d"] == 1


def test_requests_are_counted_by_the_observer_of_the_settings(
    registry: CollectorRegistry,
) -> None:
    browser = Browser(keeper(Clock(), observers=[PrometheusObserver(registry)]))
    browser.visit(lambda session: session.update(cart="tea"))
    assert browser.read() == {"cart": "tea"}
    kid = RING.keys[0].kid.hex()
    assert counts_on(page_of(registry)) == {("saved", "", ""): 1, ("opened", "", kid): 1}


def test_applications_share_an_observer_or_have_different_namespaces(
    registry: CollectorRegistry,
) -> None:
    observer = PrometheusObserver(registry)
    for _ in range(3):
        EventLog([observer]).emit("saved")
    with pytest.raises(ConfigurationError, match="different namespaces"):
        PrometheusObserver(registry)
    EventLog([PrometheusObserver(registry, namespace="shop")]).emit("saved")
    assert counts_on(page_of(registry)) == {("saved", "", ""): 3}
    assert counts_on(page_of(registry), "shop_events_total") == {("saved", "", ""): 1}


BY_DEFAULT = """
from prometheus_client import generate_latest
from sealedstate.events import EventLog
from sealedstate.exporters.prometheus import PrometheusObserver

EventLog([PrometheusObserver()]).emit("saved")
print(generate_latest().decode())
"""


def test_default_registry_is_the_one_that_prometheus_client_serves() -> None:
    command = [sys.executable, "-c", BY_DEFAULT]
    page = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert counts_on(page) == {("saved", "", ""): 1}


def test_missing_library_raises_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "sealedstate.exporters.prometheus")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigurationError, match=r"pip install sealedstate\[prometheus\]"):
        importlib.import_module("sealedstate.exporters.prometheus")


# --- several processes --------------------------------------------------------------------------

# Counts in a process that is forked after the observer was made, as by gunicorn --preload.
FORKING = """
import os
from sealedstate.events import EventLog
from sealedstate.exporters.prometheus import PrometheusObserver

events = EventLog([PrometheusObserver()])
events.emit("ring-rotated")
if os.fork() == 0:
    events.emit("saved")
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
"""


def test_processes_are_counted_together_forked_or_not(
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

events = EventLog([PrometheusObserver()])


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/metrics":
        return metrics(environ, start_response)
    if path == "/count":
        events.emit("saved")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


@pytest.mark.server
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["loaded by each", "preloaded"])
def test_recipe_of_the_documentation_serves_the_counts_of_all_workers(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "events.md").read_text("utf-8")
    recipe = documented.split("```python\n# metrics.py\n")[1].split("```")[0]
    folder = tmp_path / "counts"
    folder.mkdir()
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    with gunicorn(tmp_path, recipe + COUNTING, *options, environ=environ, workers=2) as server:
        asked, workers = 0, set[bytes]()
        while len(workers) < 2:
            workers.add(Client(server.port).get("/count").body)
            asked += 1
            assert asked < 2000, "one worker answers everything"
        page = Client(server.port).get("/metrics").body.decode()
    assert counts_on(page) == {("saved", "", ""): asked}

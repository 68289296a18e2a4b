"""Events on the page of Prometheus, from one process and from several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from sealedstate import ConfigurationError
from sealedstate.events import EventLog
from sealedstate.exporters.prometheus import PrometheusObserver
from tests.support.client import Client
from tests.support.jar import RING, Browser, Clock, keeper
from tests.support.scrapes import counts_on, page_of
from tests.support.servers import gunicorn


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


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


@pytest.mark.slow
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


@pytest.mark.slow
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

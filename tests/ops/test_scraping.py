"""A real Prometheus scrapes nodes; alerts fire for a stopped store and a node that lags."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from prometheus_client import CollectorRegistry, make_wsgi_app

from sealedstate import Keeper, Settings
from sealedstate.cli import main
from sealedstate.exporters.prometheus import PrometheusObserver
from sealedstate.storage import SQLiteStorage
from sealedstate.testing import ScriptedStorage
from tests.support.documents import ROOT
from tests.support.jar import Browser
from tests.support.ports import free_port
from tests.support.server_process import until

pytestmark = pytest.mark.soak


class Node:
    """A process of an application, and its page of metrics."""

    def __init__(self, folder: Path) -> None:
        registry = CollectorRegistry()
        observer = PrometheusObserver(registry)
        self.store = ScriptedStorage(time.time, SQLiteStorage(folder / "store.db", time.time))
        self.keeper = Keeper(
            Settings(
                keys=f"file:{folder}/keys.json",
                storage=self.store,
                accept_weak_store_for=["revocation"],
                rotate_in_process=False,
                observers=[observer],
            )
        )
        observer.watch(self.keeper)
        self.page = make_wsgi_app(registry)


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(node: Node) -> Iterator[str]:
    with make_server("127.0.0.1", 0, node.page, handler_class=Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def prometheus(folder: Path, targets: list[str], rules: str) -> Iterator[str]:
    """A server that scrapes and evaluates once a second; its address."""
    found = shutil.which("prometheus")
    if found is None:
        pytest.skip("not installed: prometheus")
    (folder / "rules.yml").write_text(rules)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "app", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    address = f"127.0.0.1:{free_port()}"
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": address,
    }
    command = [found, *(f"--{name}={value}" for name, value in options.items())]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://{address}"
        finally:
            process.terminate()


def answer(url: str) -> Any:
    try:
        with urlopen(url, timeout=5) as response:
            return json.load(response)["data"]
    except OSError:
        return {}


def firing(server: str) -> set[str]:
    alerts = answer(f"{server}/api/v1/alerts").get("alerts", [])
    return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}


def value_of(server: str, metric: str) -> list[float]:
    result = answer(f"{server}/api/v1/query?query={metric}").get("result", [])
    return [float(each["value"][1]) for each in result]


def test_prometheus_reads_the_metrics_and_alerts_fire(tmp_path: Path) -> None:
    ring = tmp_path / "keys.json"
    assert main(["keys", "init", str(ring)]) == 0
    first, second = Node(tmp_path), Node(tmp_path)
    # The rules as they are, but for their patience.
    rules = (ROOT / "ops" / "alerts.yml").read_text("utf-8")
    for patience in ("10m", "5m", "2m", "1m"):
        rules = rules.replace(f"for: {patience}", "for: 2s")
    browser = Browser(first.keeper)
    with (
        serve(first) as one,
        serve(second) as two,
        prometheus(tmp_path, [one, two], rules) as server,
    ):
        browser.visit(lambda session: setattr(session, "subject", "jdoe"))

        def visit() -> None:
            assert browser.keeper.session(browser.jar.header()).get("cart") is None

        visit()
        until(
            lambda: sum(value_of(server, "sealedstate_ring_sequence")) == 2,
            "both nodes are scraped",
            60,
        )
        until(
            lambda: sum(value_of(server, "sealedstate_open_duration_seconds_count")) >= 1,
            "an opened session is measured",
            60,
        )
        assert firing(server) == set()
        # A node lags: the other has read a newer ring.
        assert main(["keys", "rotate", "--now", str(ring)]) == 0
        first.keeper.deployment.key_source.seek(b"none")  # type: ignore[attr-defined]
        until(lambda: "SealedstateNodeLags" in firing(server), "a node lags", 60)
        # The store is stopped.
        first.store.fail("read", "members")

        def fails() -> bool:
            visit()
            return {"SealedstateStoreFails", "SealedstateLogoutsUnknown"} <= firing(server)

        until(fails, "the store fails", 60)

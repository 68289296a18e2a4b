"""How many requests a second does a server answer whose application has a session?

Knows gunicorn, a load generator (wrk) and rounds. Does not know products, or how anything is
printed. gunicorn runs one worker with four threads and keeps connections; wrk, of Debian, sends
requests over four connections from one thread. Both share the processors of this machine, so the
figures say how rows compare, not how many requests a machine answers.

Each round visits every row in an order of its own, one after the other. What is told is the median
over the rounds of the requests a second divided by those of the same round's no-op application.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from benchmarks.dress import Progress, versions
from benchmarks.request_apps import KINDS, PRODUCTS
from benchmarks.served_app import NO_OP, PLACE, ROW
from benchmarks.store_servers import NotThere, Place, started
from benchmarks.stored_apps import STORED

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = ("sqlite", "postgresql", "mariadb", "redis", "memcached")
CONNECTIONS = 4
SOURCE = "from benchmarks.served_app import make_application\napplication = make_application()\n"


DISTRIBUTIONS = (
    *("gunicorn", "flask-session", "cachelib", "sqlalchemy"),
    *("psycopg", "mysqlclient", "pymysql", "redis", "pymemcache"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """Requests a second and the p99 of their latency in milliseconds, medians of the rounds;
    `share`: of the requests a second of an application that does nothing."""

    per_second: float
    p99: float
    share: float


@dataclass(slots=True)
class Served:
    """By row and kind; of rows with a store, the row names it."""

    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    servers: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Target:
    """A running server, and the Cookie header of a session there."""

    port: int
    cookie: str

    def visit(self, kind: str, seconds: float) -> tuple[float, float]:
        """Requests a second, and the p99 of the latency in milliseconds."""
        command = [
            *("wrk", "--threads", "1", "--connections", str(CONNECTIONS)),
            *("--duration", f"{max(1, round(seconds))}s", "--latency"),
            *(("-H", f"Cookie: {self.cookie}") if self.cookie else ()),
            f"http://127.0.0.1:{self.port}/{kind}",
        ]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        if "Non-2xx" in told or "Socket errors" in told:
            raise RuntimeError(f"{kind}: {told}")
        rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
        p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", told)
        assert rate is not None
        assert p99 is not None
        return float(rate[1]), float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000}[p99[2]]


def tools() -> dict[str, str]:
    """The versions of what serves, asks and stores, as far as it is installed."""
    found = versions(DISTRIBUTIONS)
    wrk = shutil.which("wrk")
    if wrk is not None:
        told = subprocess.run([wrk, "-v"], check=False, capture_output=True, text=True).stdout
        found["wrk"] = told.split()[1] if len(told.split()) > 1 else "of unknown version"
    return found


def measure(rounds: int, seconds: float, names: Iterable[str]) -> Served:
    """The products whose session is in cookies."""
    rows = [product.row for product in PRODUCTS if product.row in set(names)]
    served = Served()
    if _wrk_is_missing(served):
        return served
    with ExitStack() as stack:
        targets = _targets({row: {ROW: row} for row in [NO_OP, *rows]}, served, stack)
        steps = rounds * (1 + len(KINDS) * (len(targets) - 1))
        progress = stack.enter_context(Progress("served", steps))
        _go_rounds(targets, rounds, seconds, served, progress)
    return served


def measure_stored(rounds: int, seconds: float) -> Served:
    """Those whose session, or a part of it, is on a server; backend by backend."""
    served = Served()
    if _wrk_is_missing(served):
        return served
    steps = rounds * (1 + len(KINDS) * len(STORED)) * len(BACKENDS)
    with Progress("stored", steps) as progress:
        for backend in BACKENDS:
            try:
                with started(backend) as place:
                    served.servers[backend] = place.version
                    _measure_backend(backend, place, rounds, seconds, served, progress)
            except NotThere as reason:
                served.left_out[backend] = str(reason)
    return served


def _measure_backend(
    backend: str, place: Place, rounds: int, seconds: float, served: Served, progress: Progress
) -> None:
    rows = {f"{backend}: {row}": {ROW: row, PLACE: f"{backend}={place.url}"} for row in STORED}
    with ExitStack() as stack:
        targets = _targets({NO_OP: {ROW: NO_OP}, **rows}, served, stack)
        _go_rounds(targets, rounds, seconds, served, progress)


def _wrk_is_missing(served: Served) -> bool:
    if shutil.which("wrk") is not None:
        return False
    served.left_out["all"] = "wrk is not installed"
    return True


def _targets(
    rows: Mapping[str, Mapping[str, str]], served: Served, stack: ExitStack
) -> dict[str, Target]:
    """A server for each row that starts."""
    found = {}
    for row, environ in rows.items():
        try:
            found[row] = _started(environ, stack)
        except Exception as error:
            served.left_out[row] = f"{type(error).__name__}: {error}"
    return found


def _started(environ: Mapping[str, str], stack: ExitStack) -> Target:
    from tests.support.servers import gunicorn

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sealedstate-served-")))
    path = os.pathsep.join([str(ROOT), str(ROOT / "middleware")])
    server = stack.enter_context(
        gunicorn(
            folder,
            SOURCE,
            *("--worker-class", "gthread", "--threads", "4", "--keep-alive", "30"),
            environ={**environ, "PYTHONPATH": path},
            workers=1,
        )
    )
    with urlopen(f"http://127.0.0.1:{server.port}/cookie") as answer:
        cookie = answer.read().decode("latin-1")
    return Target(server.port, "" if environ[ROW] == NO_OP else cookie)


def _go_rounds(
    targets: Mapping[str, Target], rounds: int, seconds: float, served: Served, progress: Progress
) -> None:
    if NO_OP not in targets:
        return  # `left_out` says why: there is nothing to compare with
    visits = [(row, kind) for row in targets if row != NO_OP for kind in KINDS]
    found: dict[tuple[str, str], list[tuple[float, float]]] = {visit: [] for visit in visits}
    shares: dict[tuple[str, str], list[float]] = {visit: [] for visit in visits}
    for _ in range(rounds):
        nothing, _ = targets[NO_OP].visit("", seconds)
        progress.step(NO_OP)
        for row, kind in random.sample(visits, len(visits)):
            rate, p99 = targets[row].visit(kind, seconds)
            found[row, kind].append((rate, p99))
            shares[row, kind].append(rate / nothing)
            progress.step(f"{row} {kind}")
    for (row, kind), told in found.items():
        served.cells.setdefault(row, {})[kind] = Cell(
            statistics.median(rate for rate, _ in told),
            statistics.median(p99 for _, p99 in told),
            statistics.median(shares[row, kind]),
        )

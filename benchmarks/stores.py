"""How long do stores take, beside their drivers alone and beside Django's sessions?

Knows the rows, the ratios and how to print them. Does not know how a server is started, what a
driver does or how calls are timed. Run it as a script; it starts the servers that it finds.

    python benchmarks/stores.py [--only BACKEND]... [--seconds N] [--rounds N] [--json]
"""

from __future__ import annotations

import os
import platform
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from time import time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.dress import (
    Progress,
    chosen,
    options_for,
    positive,
    print_notes,
    print_table,
    tell,
    verdict,
)
from benchmarks.store_bare import bare
from benchmarks.store_django import DJANGO, django_sessions
from benchmarks.store_load import PATIENCE
from benchmarks.store_ours import SESSION, STORE, lent_store, our_session, our_store
from benchmarks.store_rounds import CAS, OPERATIONS, READ, Contender, Measured, run
from benchmarks.store_servers import BACKENDS, NotThere, Place, started
from sealedstate import ConfigurationError
from sealedstate.storage import ManagedStorage, open_storage

GOAL = 1.5
"""Times the p50 of the bare driver, at most; of a store in memory nobody asks it."""
JUDGED = (READ, CAS)
UNJUDGED = ("memory",)
DRIVERS = {
    "postgresql": ("psycopg", "psycopg-binary", "psycopg-c", "sqlalchemy"),
    "mariadb": ("pymysql", "sqlalchemy"),
    "redis": ("redis", "hiredis"),
    "memcached": ("pymemcache",),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One operation of one contender. Times in microseconds; `ratio` is that of the p50s."""

    ops_per_second: float
    p50: float
    p99: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Server:
    """What a backend ran on, and whether an acknowledged write survives its end."""

    version: str
    durable: bool
    because: str


@dataclass(slots=True)
class Report:
    """What was measured: cells by operation, backend and contender."""

    cells: dict[str, dict[str, dict[str, Cell]]] = field(default_factory=dict)
    beside_django: dict[str, dict[str, float]] = field(default_factory=dict)
    servers: dict[str, Server] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    """How many processes wanted a processor in the minute before."""

    def goals(self) -> dict[str, dict[str, float]]:
        """The ratios that are judged, by backend and operation."""
        return {
            backend: {name: self.cells[name][backend][STORE].ratio for name in JUDGED}
            for backend in self.servers
            if backend not in UNJUDGED
        }


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    backends = chosen(BACKENDS, options.only, "")
    report = measure(backends, options.value_bytes, options.rounds, options.seconds)
    tell(options, _as_json(report, options), partial(_print_report, report, options))


def measure(backends: Iterable[str], value_bytes: int, rounds: int, seconds: float) -> Report:
    """Everybody who is there, side by side. Who is not, is left out with the reason."""
    report = Report()
    with ExitStack() as stack:
        places = _places(backends, report, stack)
        stores = _stores(places, report, stack)
        groups = _groups(stores, places, report, value_bytes)
        for one in chain.from_iterable(groups.values()):
            stack.callback(one.close)
        with Progress("stores", rounds) as progress:
            _note(report, run(groups, rounds, seconds, progress))
        for backend in groups:
            report.servers[backend] = _server(places[backend], stores[backend])
    report.versions = _versions(report.servers, "Django" not in report.left_out)
    return report


def _places(backends: Iterable[str], report: Report, stack: ExitStack) -> dict[str, Place]:
    """The servers that are installed, started."""
    places = {}
    for backend in dict.fromkeys(backends):
        try:
            places[backend] = stack.enter_context(started(backend))
        except NotThere as reason:
            report.left_out[backend] = str(reason)
        except Exception as error:
            report.left_out[backend] = f"failed: {type(error).__name__}: {error}"
    return places


def _stores(
    places: Mapping[str, Place], report: Report, stack: ExitStack
) -> dict[str, ManagedStorage]:
    """Our stores, as far as their drivers are installed."""
    stores = {}
    for backend, place in places.items():
        try:
            stores[backend] = open_storage(_patient(place.url), time)
        except ConfigurationError as missing:
            report.left_out[backend] = str(missing)
        else:
            stack.callback(stores[backend].close)
    return stores


def _patient(url: str) -> str:
    if url == "memory:":
        return url
    return f"{url}{'&' if '?' in url else '?'}sealedstate_timeout={PATIENCE}"


def _groups(
    stores: Mapping[str, ManagedStorage],
    places: Mapping[str, Place],
    report: Report,
    value_bytes: int,
) -> dict[str, list[Contender]]:
    """Who takes turns on each backend; the bare driver comes first."""
    urls = {backend: places[backend].url for backend in stores}
    groups = {
        backend: [
            bare(backend, urls[backend], value_bytes),
            our_store(store, value_bytes),
            our_session(store, value_bytes),
        ]
        for backend, store in stores.items()
    }
    for backend, url in urls.items():
        try:
            lent = lent_store(backend, url, value_bytes)
        except ImportError as missing:
            report.left_out[f"{backend}: handed in"] = f"{missing.name} is not installed"
        else:
            groups[backend] += [lent] if lent else []
    try:
        peers = django_sessions(urls, value_bytes)
    except ImportError as missing:
        report.left_out["Django"] = f"{missing.name} is not installed"
    else:
        for backend, peer in peers.items():
            groups[backend].append(peer)
    return groups


def _note(report: Report, found: Mapping[str, Measured]) -> None:
    for operation in OPERATIONS:
        report.cells[operation] = {
            backend: _cells(group, operation) for backend, group in found.items()
        }
    for backend, group in found.items():
        for peer in DJANGO & group.keys():
            report.beside_django[backend] = {
                name: group[SESSION][name].ratio_to(group[peer][name]) for name in JUDGED
            }


def _cells(group: Measured, operation: str) -> dict[str, Cell]:
    times = {name: acts[operation] for name, acts in group.items() if operation in acts}
    first = next(iter(times.values()))
    return {
        name: Cell(one.per_second, one.percentile(50), one.percentile(99), one.ratio_to(first))
        for name, one in times.items()
    }


def _server(place: Place, store: ManagedStorage) -> Server:
    known = store.capabilities
    why = known.reasons.get("durable", "each write is synced" if known.durable else "in memory")
    return Server(place.version, known.durable, why)


def _versions(backends: Iterable[str], django: bool) -> dict[str, str]:
    """Of what took part, as far as it is installed."""
    from sealedstate import __version__

    names = dict.fromkeys(name for backend in backends for name in DRIVERS.get(backend, ()))
    if django:
        names |= dict.fromkeys(("django", *(["mysqlclient"] if "mariadb" in backends else [])))
    found = {"python": platform.python_version(), "sealedstate": __version__}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _parse(arguments: Sequence[str] | None) -> Namespace:
    parser = options_for("How long stores take, beside their drivers.")
    parser.add_argument(
        "--seconds",
        type=positive,
        default=45,
        metavar="N",
        help="of all measuring together, about (default: 45)",
    )
    parser.add_argument("--rounds", type=positive, default=30, metavar="N", help="default: 30")
    parser.add_argument(
        "--value-bytes", type=positive, default=1024, metavar="N", help="default: 1024"
    )
    return parser.parse_args(arguments)


def _as_json(report: Report, options: Namespace) -> dict[str, object]:
    return {
        "value_bytes": options.value_bytes,
        "rounds": options.rounds,
        "goal": GOAL,
        "goals": report.goals(),
        **asdict(report),
    }


def _print_report(report: Report, options: Namespace) -> None:
    print(
        "Stores on this machine, one call after the other over one connection;"
        f" values of {options.value_bytes} bytes, {options.rounds} rounds"
    )
    for operation, backends in report.cells.items():
        if backends:
            _print_table(operation, backends)
    _print_goals(report)
    _print_beside_django(report)
    _print_what_ran(report)


def _print_table(operation: str, backends: Mapping[str, Mapping[str, Cell]]) -> None:
    rows = {}
    for backend, cells in backends.items():
        for number, (name, cell) in enumerate(cells.items()):
            rows[f"{backend}: {name}"] = {
                "a second": f"{cell.ops_per_second:.0f}",
                "p50 µs": f"{cell.p50:.1f}",
                "p99 µs": f"{cell.p99:.1f}",
                "to bare": cell.ratio if number else "",
            }
    print_table(operation, rows)


def _print_goals(report: Report) -> None:
    if not (goals := report.goals()):
        return
    print(f"\nGoal: {STORE} takes at most {GOAL} times as long as the bare driver, by the p50s")
    for backend, ratios in goals.items():
        told = [f"{name} {ratio:.2f}: {verdict(ratio, GOAL)}" for name, ratio in ratios.items()]
        print(f"  {backend}: {', '.join(told)}")


def _print_beside_django(report: Report) -> None:
    notes = {
        backend: ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        for backend, ratios in report.beside_django.items()
    }
    print_notes(f"{SESSION}, its p50 divided by that of Django's session on the same server", notes)


def _print_what_ran(report: Report) -> None:
    print("\nWhat ran")
    for backend, server in report.servers.items():
        kept = "durable" if server.durable else "not durable"
        print(f"  {backend}: {server.version}, {kept} ({server.because})")
    print(f"  load {report.load:.1f} at the start, {os.cpu_count()} processors")
    print("  " + ", ".join(f"{name} {number}" for name, number in report.versions.items()))
    print_notes("Left out", report.left_out)


if __name__ == "__main__":
    main()

"""What does a ring that rotates cost, and what does a flood of unknown keys do to good requests?

Knows rings, keepers and how to print. Does not know servers. Run it as a script:

    python benchmarks/rotation.py [--requests N] [--json]

A request here is one cookie opened and its subject read, in one process, the ring in a file. In a
flood every other request carries a kid that nobody knows, a different one each time; it is compared
with rounds in which every other request is just another good one, in turns. Costs by the number of
keys in the ring are medians of calls, in microseconds.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter_ns, time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.dress import Progress, options_for, positive, print_table, tell, verdict
from sealedstate import Keeper, Key, Settings
from sealedstate._wire import encoding as chunking
from sealedstate.deployment import Deployment
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.rotation.ring import Ring, Schedule
from sealedstate.rotation.ring_file import RingFile
from sealedstate.rotation.source import RotatingKeySource
from sealedstate.rotation.transitions import create_ring, rotate

GOAL = 2.0
"""Times the p99 of good requests without a flood, at most."""
ROUNDS = 20
KEYS = (1, 10, 100, 1000)
SCHEDULE = Schedule(rotate_every=86_400, announce=900, keep=43_260, skew=60)


@dataclass(frozen=True, slots=True)
class Flood:
    """Good requests with and without a flood; times in microseconds, medians of the rounds, and so
    is the ratio of the p99s of one round. `loads`: of the ring, with how many unknown kids, in how
    many seconds."""

    quiet_p50: float
    quiet_p99: float
    flood_p50: float
    flood_p99: float
    ratio: float
    unknown: int
    loads: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What a ring of so many keys costs, in microseconds. `open`: a cookie under the oldest key."""

    keys: int
    document_bytes: int
    load: float
    write: float
    open: float


class Counted(RingFile):
    """A ring file that counts how often it is read."""

    loads = 0

    def load(self) -> Ring | None:
        self.loads += 1
        return super().load()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options_for("What a rotating ring costs.")
    parser.add_argument(
        "--requests", type=positive, default=100_000, help=f"unknown kids in all, {ROUNDS} at least"
    )
    options = parser.parse_args(arguments)
    if options.requests < ROUNDS:
        parser.error(f"--requests: {ROUNDS} at least, one for each round")
    with Progress("rotation", ROUNDS + len(KEYS)) as progress:
        flood = measure_flood(options.requests, progress)
        costs = [measure_cost(keys, progress) for keys in KEYS]
    told = {"flood": asdict(flood), "costs": [asdict(cost) for cost in costs], "goal": GOAL}
    tell(options, told, partial(_print, flood, costs))


# --- a flood ------------------------------------------------------------------------------------


def measure_flood(requests: int, progress: Progress) -> Flood:
    """Rounds with and without a flood, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        home, keeper, cookie = _node(Path(folder))
        begun, loads = perf_counter_ns(), home.loads
        rounds = [
            (
                _round(keeper, cookie, lambda: cookie, requests // ROUNDS),
                _round(keeper, cookie, _unknown(), requests // ROUNDS),
            )
            for _ in _steps(progress)
        ]
        seconds = (perf_counter_ns() - begun) / 1e9
        loads = home.loads - loads
    return Flood(
        quiet_p50=statistics.median(_percentile(quiet, 50) for quiet, _ in rounds),
        quiet_p99=statistics.median(_percentile(quiet, 99) for quiet, _ in rounds),
        flood_p50=statistics.median(_percentile(flooded, 50) for _, flooded in rounds),
        flood_p99=statistics.median(_percentile(flooded, 99) for _, flooded in rounds),
        ratio=statistics.median(
            _percentile(flooded, 99) / _percentile(quiet, 99) for quiet, flooded in rounds
        ),
        unknown=requests,
        loads=loads,
        seconds=seconds,
    )


def _steps(progress: Progress) -> Iterator[int]:
    for number in range(ROUNDS):
        yield number
        progress.step("a flood")


def _node(folder: Path) -> tuple[Counted, Keeper, str]:
    path = folder / "keys.json"
    home = Counted(path, None, os.urandom, time)
    home.write(create_ring(SCHEDULE, int(time()), os.urandom), None)
    settings = Settings(keys=f"file:{path}", rotate_in_process=False)
    deployment = Deployment.open(settings)
    source = deployment.key_source
    assert isinstance(source, RotatingKeySource)
    source.storage = home
    keeper = Keeper(deployment)
    session = keeper.session()
    session.subject = "jdoe@example.org"
    return home, keeper, keeper.save(session)[0].partition(";")[0]


def _round(keeper: Keeper, cookie: str, other: Callable[[], str], requests: int) -> list[int]:
    times = []
    for _ in range(requests):
        _ = keeper.session(other()).subject
        begun = perf_counter_ns()
        subject = keeper.session(cookie).subject
        times.append(perf_counter_ns() - begun)
        assert subject is not None
    return times


_KIDS = count(1)


def _unknown() -> Callable[[], str]:
    junk = os.urandom(120)

    def next_one() -> str:
        token = b"\x01" + next(_KIDS).to_bytes(4, "big") + junk
        return f"__Host-Http-s={chunking.to_text(token)}"

    return next_one


# --- a ring of many keys ------------------------------------------------------------------------


def measure_cost(keys: int, progress: Progress) -> Cost:
    """Load, write and open with a ring of so many keys."""
    ring, now = _grown(keys)
    progress.step(f"{keys} keys")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.json"
        home = RingFile(path, None, os.urandom, time)
        home.write(ring, None)
        later = rotate(ring, ring.schedule, now, os.urandom, force=True)
        write = statistics.median(_writes(home, ring, later))
        size = path.stat().st_size
        load = _median(lambda: RingFile(path, None, os.urandom, time).load(), 20)
    return Cost(keys, size, load, write, _opening(ring.keyring(), now))


def _grown(keys: int) -> tuple[Ring, int]:
    """A ring that has so many keys because it rotates fast, and its time."""
    schedule = Schedule(rotate_every=60, announce=60, keep=60 * keys, skew=1)
    now = int(time()) - 60 * keys
    ring = create_ring(schedule, now, os.urandom)
    while len(ring.keys) < keys:
        now += 60
        ring = rotate(ring, schedule, now, os.urandom)
    return ring, now


def _writes(home: RingFile, one: Ring, other: Ring) -> Iterator[float]:
    for _ in range(5):
        for ring, after in ((other, one), (one, other)):
            begun = perf_counter_ns()
            assert home.write(ring, after)
            yield (perf_counter_ns() - begun) / 1e3


def _opening(ring: Keyring, now: int) -> float:
    oldest: Key = ring.keys[-1]
    sealing = Keeper(Settings(keys=StaticKeys(Keyring((oldest,))), clock=lambda: now))
    session = sealing.session()
    session.subject = "jdoe@example.org"
    cookie = sealing.save(session)[0].partition(";")[0]
    keeper = Keeper(Settings(keys=StaticKeys(ring), clock=lambda: now))
    return _median(lambda: keeper.session(cookie).subject, 2000)


def _median(act: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(times):
        begun = perf_counter_ns()
        act()
        found.append((perf_counter_ns() - begun) / 1e3)
    return statistics.median(found)


def _percentile(times: Sequence[int], at: int) -> float:
    return sorted(times)[len(times) * at // 100] / 1e3


# --- what is printed ----------------------------------------------------------------------------


def _print(flood: Flood, costs: Sequence[Cost]) -> None:
    print("What a ring that rotates costs; microseconds of the clock on the wall")
    rows = {
        "among good ones": {"p50": flood.quiet_p50, "p99": flood.quiet_p99},
        "among unknown kids": {"p50": flood.flood_p50, "p99": flood.flood_p99},
    }
    print_table("Good requests", rows, places=1)
    told = verdict(flood.ratio, GOAL)
    print(f"\nGoal: p99 with to without, {flood.ratio:.2f}, at most {GOAL}: {told}")
    print(f"{flood.unknown} unknown kids, {flood.loads} loads in {flood.seconds:.1f} s")
    columns = {
        str(cost.keys): {
            "document bytes": cost.document_bytes,
            "load": cost.load,
            "write": cost.write,
            "open": cost.open,
        }
        for cost in costs
    }
    print_table("By the number of keys in the ring", columns, places=1)


if __name__ == "__main__":
    main()

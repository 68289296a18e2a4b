"""A store with very many spilled parts: how large it gets, how fast it recalls, how it is reaped.

Knows our tables in SQLite and PostgreSQL, which it fills in bulk, and the keeper, through which
some real sessions are spilled among the others. Does not know how servers are started or how
anything is printed.

The rows that are filled in bulk are as long as those of the real sessions, under keys that are as
random, in an order that is as random. A recall is a part read by an application through the keeper:
the row is read, opened and decoded; the cookie is open already.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any, TypeAlias

from benchmarks.cookie_pairs import pairs
from benchmarks.dress import Progress
from benchmarks.ours import STORED
from benchmarks.workloads import ENTITY_IDS, NOW, make_workload, read_entity_ids
from sealedstate import Keeper, Key, Settings
from sealedstate._stored.parts import CONTEXT
from sealedstate._wire.encoding import to_text
from sealedstate.storage import open_storage
from sealedstate.storage.contract import context_digest, key_digest

REAL = 2000
BATCH = 10_000
REAP_LIMIT = 10_000
PART = "l"
"""The part of login records that holds the service logins."""
LIFETIME = 43_260 * 1000  # milliseconds, as a session's row lives


Batch: TypeAlias = list[tuple[str, bytes, int, int]]
"""Key, value, version and expiry of some rows."""
Put: TypeAlias = Callable[[Batch], None]


@dataclass(slots=True)
class Crowd:
    """Bytes on disk; times in milliseconds, of recalls as percentiles."""

    sessions: int
    row_bytes: int = 0
    disk_bytes: int = 0
    fill_seconds: float = 0.0
    recall: dict[str, float] = field(default_factory=dict)
    reap_seconds: float = 0.0
    reaped: int = 0
    disk_bytes_after: int = 0

    @property
    def bytes_each(self) -> float:
        return self.disk_bytes / self.sessions


class Clock:
    """Says when it is told it is."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def disk_bytes(url: str) -> int:
    """What the records take with their indexes, of the database's file or table."""
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite":
        return sum(path.stat().st_size for path in Path(rest).parent.glob(Path(rest).name + "*"))
    with import_module("psycopg").connect(url, autocommit=True) as connection:
        sizes = "SELECT pg_total_relation_size('sealedstate_record')"
        return int(connection.execute(sizes).fetchone()[0])


def measure(url: str, sessions: int, progress: Progress) -> Crowd:
    """Fill an empty store, recall from it, and let everything expire."""
    clock, crowd = Clock(), Crowd(sessions)
    store = open_storage(_patient(url), clock)
    store.prepare()
    keeper = _keeper(store, clock)
    headers = [_spilled(keeper, number) for number in range(min(REAL, sessions))]
    crowd.row_bytes = _row_bytes(store)
    begun = perf_counter()
    with _FILLERS[url.partition(":")[0]](url) as put:
        for batch in _batches(sessions - len(headers), crowd.row_bytes):
            put(batch)
            progress.step("fill")
    crowd.fill_seconds, crowd.disk_bytes = perf_counter() - begun, disk_bytes(url)
    crowd.recall = _recalls(keeper, headers)
    clock.now += LIFETIME / 1000 + 1
    begun = perf_counter()
    while reaped := store.reap(REAP_LIMIT):
        crowd.reaped += reaped
        progress.step("reap")
    crowd.reap_seconds, crowd.disk_bytes_after = perf_counter() - begun, disk_bytes(url)
    store.close()
    return crowd


def steps(sessions: int) -> int:
    """How many steps of progress that takes."""
    return 2 * (sessions // BATCH + 1)


def _patient(url: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}sealedstate_timeout=60"


def _keeper(store: Any, clock: Clock) -> Keeper:
    keys = [Key.generate(os.urandom).export()]
    return Keeper(Settings(keys=keys, storage=store, part_policies={PART: "server"}, clock=clock))


def _spilled(keeper: Keeper, seed: int) -> str:
    """The Cookie header of a session W3 whose service logins are in the store."""
    session = keeper.session()
    STORED.fill(session, make_workload("W3", seed, _entity_ids()), _entity_ids())
    return "; ".join(pairs(keeper.save(session)))


@cache
def _entity_ids() -> tuple[str, ...]:
    return tuple(read_entity_ids(ENTITY_IDS))


def _row_bytes(store: Any) -> int:
    """The median length of a real row's value."""
    lengths = sorted(
        len(found.value)
        for key in store.keys(CONTEXT)
        if (found := store.read(CONTEXT, key)) is not None
    )
    return lengths[len(lengths) // 2]


def _batches(rows: int, row_bytes: int) -> Iterator[Batch]:
    """Key, value, version and expiry, in batches."""
    at = NOW * 1000 + LIFETIME
    version = (NOW - 1577836800) * 1_000_000
    while rows > 0:
        count = min(rows, BATCH)
        yield [
            (
                to_text(os.urandom(24)),
                os.urandom(row_bytes),
                version,
                at - random.randrange(LIFETIME),
            )
            for _ in range(count)
        ]
        rows -= count


@contextmanager
def _filling_sqlite(url: str) -> Iterator[Put]:
    """As fast as it goes: nothing is synced, and the tree is kept in memory meanwhile."""
    connection = sqlite3.connect(Path(url.partition(":")[2]), isolation_level=None)
    for pragma in ("synchronous = OFF", "journal_mode = OFF", "cache_size = -4000000"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    context = CONTEXT.encode()

    def put(batch: Batch) -> None:
        rows = [(context, key.encode(), *rest) for key, *rest in batch]
        connection.executemany("INSERT INTO sealedstate_record VALUES (?, ?, ?, ?, ?)", rows)

    try:
        connection.execute("BEGIN")
        yield put
        connection.execute("COMMIT")
    finally:
        connection.close()


@contextmanager
def _filling_postgresql(url: str) -> Iterator[Put]:
    psycopg: Any = import_module("psycopg")
    columns = "place, context_place, full_context, full_key, value, version, expires_at"
    statement = f"COPY sealedstate_record ({columns}) FROM STDIN (FORMAT BINARY)"
    place, context = context_digest(CONTEXT), CONTEXT.encode()
    with psycopg.connect(url) as connection:

        def put(batch: Batch) -> None:
            with connection.cursor().copy(statement) as copy:
                copy.set_types(["bytea"] * 5 + ["int8"] * 2)
                for key, value, version, at in batch:
                    digest = key_digest(CONTEXT, key)
                    copy.write_row((digest, place, context, key.encode(), value, version, at))

        yield put


_FILLERS = {"sqlite": _filling_sqlite, "postgresql": _filling_postgresql}


def _recalls(keeper: Keeper, headers: list[str]) -> dict[str, float]:
    """Milliseconds by percentile; each session once, in a random order."""
    times = []
    for header in random.sample(headers, len(headers)):
        session = keeper.session(header)
        _ = session.subject
        begun = perf_counter_ns()
        found = session[PART]
        times.append(perf_counter_ns() - begun)
        if not found:
            raise RuntimeError("a part is not there")
    times.sort()
    return {
        f"p{percent}": times[min(len(times) * percent // 100, len(times) - 1)] / 1e6
        for percent in (50, 99)
    }

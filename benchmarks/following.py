"""What does it take to keep all logouts in the memory of each process?

The memory and the processor time of loading them, what a look costs, a request that reads its
session beside one without a store, and a simulation of many processes at one store, whose polls
take as long as was measured.

    python benchmarks/following.py [--logouts N]... [--processes N]
"""

from __future__ import annotations

import argparse
import gc
import heapq
import multiprocessing
import os
import random
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cpu_rounds
from benchmarks.dress import Progress
from benchmarks.store_servers import NotThere, started
from sealedstate import Keeper, Key, Settings
from sealedstate._stored import feed as feeds
from sealedstate._stored.feed import POLL_SECONDS
from sealedstate._wire.record import format_id
from sealedstate.errors import StorageUnavailable
from sealedstate.keyring import export_lookup
from sealedstate.storage import MemoryStorage, Storage, open_storage
from sealedstate.storage.contract import Changes, millis
from sealedstate.testing import ManualClock
from tests.support.stored import new_feed

CONTEXT = "sealedstate.revoked"
# A sealed value of a session that was ended.
VALUE_BYTES = 50
SIMULATED_SECONDS = 60
LOGOUTS_A_SECOND = 100
REQUESTS_A_SECOND = 1_000_000
NO_STORE = "no store"
DELAYS = 40


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize()


@contextmanager
def filled(backend: str, logouts: int) -> Iterator[Storage]:
    """A store with so many live logouts. Raises NotThere."""
    if backend == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            store = open_storage(f"sqlite:{folder}/store.db", time.time)
            store.prepare()
            store.close()
            with sqlite3.connect(f"{folder}/store.db") as connection:
                until = millis(time.time() + 43_200)
                rows = (
                    (CONTEXT.encode(), os.urandom(16).hex().encode(), os.urandom(VALUE_BYTES))
                    for _ in range(logouts)
                )
                connection.executemany(
                    "INSERT INTO sealedstate_record (context, key, value, version, expires_at,"
                    f" changed) VALUES (?, ?, ?, 1, {until}, 1)",
                    rows,
                )
            yield store
            store.close()
        return
    with started(backend) as place:
        store = open_storage(f"{place.url}&sealedstate_timeout=5", time.time)
        store.create(CONTEXT, "first", b"", None, 1)
        import psycopg

        with psycopg.connect(place.url.partition("&")[0], autocommit=True) as connection:
            connection.execute(
                "INSERT INTO sealedstate_record SELECT sha256(n::text::bytea), context_place,"
                " full_context, convert_to(left(encode(sha256(('k' || n)::bytea), 'hex'), 32),"
                " 'UTF8'), decode(repeat('ab', %s), 'hex'), 1,"
                " %s, 0, pg_current_xact_id()"
                " FROM sealedstate_record, generate_series(1, %s) AS n",
                [VALUE_BYTES, millis(time.time() + 43_200), logouts],
            )
            connection.execute("ANALYZE sealedstate_record")
        yield store
        store.close()


def measure_load(backend: str, logouts: int) -> None:
    with filled(backend, logouts) as store:
        gc.collect()
        before, began, used = resident_bytes(), time.monotonic(), time.process_time()
        feed = new_feed(store, polls=False)
        feed.poll()
        seconds, processor = time.monotonic() - began, time.process_time() - used
        gc.collect()
        taken = resident_bytes() - before
        found = sum(len(records) for records in feed._sources[0].records.values())
        assert found >= logouts, found
        print(
            f"{backend:>11} {logouts:>10,} {taken / logouts:>12.0f} {taken / 1e6:>9.0f} MB"
            f" {processor:>10.2f} s {seconds:>9.2f} s"
        )


def measure_polls(backend: str) -> list[float]:
    """How long polls take that bring nothing new, in seconds."""
    with filled(backend, 10_000) as store:
        feed = new_feed(store, polls=False)
        feed.poll()
        times = []
        for _ in range(300):
            began = time.monotonic()
            feed.poll()
            times.append(time.monotonic() - began)
        return sorted(times)


def measure_look(logouts: int) -> float:
    """Microseconds of a processor for a look that finds nothing."""
    store = MemoryStorage(time.time, logouts + 10)
    for number in range(logouts):
        store.create(CONTEXT, f"{number:032}", bytes(VALUE_BYTES), None, 1)
    feed = new_feed(store, polls=False, staleness=3600)
    feed.poll()
    keys = [os.urandom(16).hex() for _ in range(1000)]
    best = float("inf")
    for _ in range(20):
        began = time.process_time()
        for key in keys:
            feed.look(CONTEXT, key)
        best = min(best, time.process_time() - began)
    return best / len(keys) * 1e6


def measure_requests(folder: Path, rounds: int = 40) -> dict[str, cpu_rounds.Times]:
    """Requests that read their session: with no store, with a feed, and asking at each request.

    A feed of a store in which nothing was logged out yet, of one with logouts, and of one in which
    users were signed out everywhere, too.
    """
    usual: dict[str, Any] = {
        "keys": [Key.generate(os.urandom).export(), export_lookup(os.urandom(32))]
    }

    def stored(name: str, **given: Any) -> Keeper:
        return Keeper(Settings(**usual, storage=f"sqlite:{folder / name}.db", **given))

    keepers = {
        NO_STORE: Keeper(Settings(**usual)),
        "feed": stored("new", revocation="feed"),
        "feed, with logouts": stored("logouts", revocation="feed"),
        "feed, with users signed out everywhere, too": stored("users", revocation="feed"),
        "each request": stored("asked"),
    }
    for name, keeper in keepers.items():
        if "with" in name:
            keeper.revoke_session(format_id(os.urandom(16)))
        if "users" in name:
            keeper.revoke_subject("another")

    def reading(keeper: Keeper) -> cpu_rounds.Turn:
        session = keeper.session("")
        session.subject, session["seen"] = "user", 0
        pairs = [line.partition(";")[0] for line in keeper.save(session)]
        header = "; ".join(pairs)

        def step(number: int) -> object:
            session = keeper.session(header)
            subject = session.subject
            keeper.save(session)
            return subject

        return cpu_rounds.looped(step)

    with Progress("requests", rounds) as progress:
        turns = {name: reading(keeper) for name, keeper in keepers.items()}
        for name, turn in turns.items():
            turn(1)  # the first look starts the thread of a feed
            feed = keepers[name].deployment.feed
            while feed is not None and not feed.is_fresh():
                time.sleep(0.01)
        times = cpu_rounds.run(turns, rounds, 10, progress)
    for keeper in keepers.values():
        keeper.deployment.close()
    return times


def _report_end(
    url: str, keys: list[str], headers: list[str], has_hints: bool, answers: Queue[float]
) -> None:
    """What a process does: follow, and report when it refuses each session."""
    if not has_hints:
        feeds.MOST_HINTS = 0
    keeper = Keeper(Settings(keys=keys, storage=url, revocation="feed"))
    feed = keeper.deployment.feed
    assert feed is not None
    while keeper.session(headers[0]).subject is None or not feed.is_fresh():
        time.sleep(0.01)
    time.sleep(1)  # it listens
    answers.put(0.0)
    for header in headers:
        while keeper.session(header).refusal != "signed-out":
            time.sleep(0.001)
        answers.put(time.monotonic())
    keeper.deployment.close()


def measure_delays(backend: str, logouts: int, *, has_hints: bool) -> list[float]:
    """Seconds from an acknowledged logout until another process refuses the session."""
    keys = [Key.generate(os.urandom).export()]
    with started(backend) as place:
        url = f"{place.url}{'&' if '?' in place.url else '?'}sealedstate_timeout=5"
        keeper = Keeper(Settings(keys=keys, storage=url, revocation="feed"))
        headers, ids, delays = [], [], []
        for _ in range(logouts):
            session = keeper.session("")
            session.subject = "user"
            headers.append("; ".join(line.partition(";")[0] for line in keeper.save(session)))
            ids.append(session.id)
        keeper.session(headers[0]).load()  # its thread follows, and sends hints
        context = multiprocessing.get_context("spawn")
        answers: Queue[float] = context.Queue()
        process = context.Process(target=_report_end, args=(url, keys, headers, has_hints, answers))
        process.start()
        answers.get()
        chance = random.Random(1)
        for each in ids:
            time.sleep(1 + chance.random())
            keeper.revoke_session(each)
            acknowledged = time.monotonic()
            delays.append(answers.get() - acknowledged)
        process.join()
        keeper.deployment.close()
    return sorted(delays)


class _Silent(MemoryStorage):
    """A store that does not answer for a while."""

    def __init__(self, clock: ManualClock, begin: float, end: float) -> None:
        super().__init__(clock)
        self._silence = begin, end

    @property
    def is_silent(self) -> bool:
        begin, end = self._silence
        return begin <= self._clock() < end

    def changes(self, after: str | None, limit: int) -> Changes:
        if self.is_silent:
            raise StorageUnavailable("no answer")
        return super().changes(after, limit)


def simulate(processes: int, polls: Sequence[float]) -> None:
    """Processes that follow one store for a minute, with a second in which it answers nothing."""
    chance, clock = random.Random(1), ManualClock()
    start = clock.now
    store = _Silent(clock, start + 30, start + 31)
    feeds = [
        new_feed(
            store,
            polls=False,
            clock=clock,
            running=clock,
            random=lambda count: chance.randbytes(count),
        )
        for _ in range(processes)
    ]
    # (when, number of the event, process or None for a logout)
    queue: list[tuple[float, int, int | None]] = []
    for number in range(processes):
        heapq.heappush(queue, (start + chance.random(), number, number))
    number = processes
    for logout in range(SIMULATED_SECONDS * LOGOUTS_A_SECOND):
        heapq.heappush(queue, (start + logout / LOGOUTS_A_SECOND, number, None))
        number += 1
    questions = logouts = looks = asks = 0
    ages: list[float] = []
    while queue and queue[0][0] < start + SIMULATED_SECONDS:
        at, _, process = heapq.heappop(queue)
        clock.now = at
        if process is None:
            store.create(CONTEXT, str(logouts), bytes(VALUE_BYTES), None, 1)
            logouts += 1
        else:
            feed = feeds[process]
            pause = feed.poll()
            questions += 1
            took = 0.5 if store.is_silent else chance.choice(polls)
            heapq.heappush(queue, (at + max(pause, took), number, process))
            number += 1
        if at > start + 2:
            feed = feeds[chance.randrange(processes)]
            looks += 1
            if feed.is_fresh():
                ages.append(feed._age(feed._sources[0].began))
            else:
                asks += 1
    seconds = SIMULATED_SECONDS
    print(
        f"{processes:,} processes, {REQUESTS_A_SECOND:,} requests a second, {LOGOUTS_A_SECOND}"
        f" logouts a second: {questions / seconds:,.0f} questions a second, each with"
        f" {LOGOUTS_A_SECOND * POLL_SECONDS * 0.9:.0f} new logouts; {asks / looks:.2%} of looks ask"
        f" the store; what the others go by is {sum(ages) / len(ages):.2f} s old on average, and at"
        f" most {max(ages):.2f} s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--logouts", type=int, action="append", metavar="N")
    parser.add_argument("--processes", type=int, default=1000, metavar="N")
    given = parser.parse_args(arguments)
    counts = given.logouts or [100_000, 1_000_000]
    print(f"{'store':>11} {'logouts':>10} {'bytes each':>12} {'memory':>12} {'processor':>12}"
          f" {'in all':>11}")  # fmt: skip
    polls = [0.001]
    for backend in ("sqlite", "postgresql"):
        for logouts in counts:
            try:
                measure_load(backend, logouts)
            except (NotThere, ImportError) as reason:
                print(f"{backend:>11} {logouts:>10,} left out: {reason}")
                break
        else:
            polls = measure_polls(backend)
            print(
                f"a poll of {backend} that brings nothing: {polls[150] * 1e3:.2f} ms p50,"
                f" {polls[297] * 1e3:.2f} ms p99"
            )
    print(f"a look among {counts[0]:,}: {measure_look(counts[0]):.2f} µs")
    for backend in ("postgresql", "redis"):
        for has_hints in (False, True):
            try:
                delays = measure_delays(backend, DELAYS, has_hints=has_hints)
            except (NotThere, ImportError) as reason:
                print(f"{backend}: left out: {reason}")
                continue
            way = "with hints" if has_hints else "without hints"
            print(
                f"from a logout in {backend} to its refusal elsewhere, {way}:"
                f" {delays[DELAYS // 2] * 1e3:.0f} ms p50, {delays[-1] * 1e3:.0f} ms at most"
            )
    with tempfile.TemporaryDirectory() as folder:
        times = measure_requests(Path(folder))
    for name in [name for name in times if name != NO_STORE]:
        ratio = times[name].ratio_to(times[NO_STORE])
        print(f"a request that reads its session, {name}: {ratio:.2f} of one without a store")
    simulate(given.processes, polls)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Concurrent callers: threads, forked children, and processes that share only the store.

A worker pool's processes are spawned once per test run and wait. For each run they open the store
with the suite's `open_store` and report; they begin when all of them have.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import mmap
import multiprocessing
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from ..storage.contract import Storage
    from ._suite import FakeClock, Suite

T = TypeVar("T")

PATIENCE = 120  # seconds; a store that takes longer has hung


class SuiteAddress(NamedTuple):
    """Where another process finds a suite, and what its fixtures have set on it, pickled."""

    module: str
    file: str
    name: str
    state: bytes

    @classmethod
    def of(cls, suite: Suite) -> SuiteAddress:
        kind = type(suite)
        if "<locals>" in kind.__qualname__:
            raise AssertionError(f"{kind.__name__} must be defined at the top of its module")
        file = getattr(sys.modules.get(kind.__module__), "__file__", None) or ""
        state = {}
        for name, value in vars(suite).items():
            with contextlib.suppress(Exception):  # pickle raises whatever an object's methods raise
                ForkingPickler.dumps(value)
                state[name] = value
        return cls(kind.__module__, file, kind.__qualname__, bytes(ForkingPickler.dumps(state)))

    def open_store(self, clock: FakeClock) -> Storage:
        """Import the suite's module, from its file if its name leads elsewhere; open its store."""
        module: Any = None
        with contextlib.suppress(ImportError):
            module = importlib.import_module(self.module)
        if module is None or (self.file and getattr(module, "__file__", None) != self.file):
            spec = importlib.util.spec_from_file_location(self.module, self.file)
            if spec is None or spec.loader is None:
                raise ImportError(
                    f"the suite's module {self.module} can't be imported in another process"
                )
            module = sys.modules[self.module] = importlib.util.module_from_spec(spec)
            sys.path.insert(0, str(Path(self.file).parent))
            spec.loader.exec_module(module)
        kind = functools.reduce(getattr, self.name.split("."), module)
        suite: Suite = object.__new__(kind)
        vars(suite).update(ForkingPickler.loads(self.state))  # pyright: ignore
        return suite.open_store(clock)


class WorkerPool:
    """Spawned processes, which share no memory with the test."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        for number in range(size):
            here, there = context.Pipe()
            # Daemons end with this process; if it is killed, they end when their pipe does.
            context.Process(target=_work, args=(there, number), daemon=True).start()
            there.close()
            self._pipes.append(here)

    def run(
        self, suite: Suite, clock: FakeClock, act: Callable[..., T], *arguments: Any
    ) -> list[T]:
        """Return the results of `act(store, clock, number, *arguments)`, by process number."""
        self._send((SuiteAddress.of(suite), clock, act, arguments))
        unopened, _ = self._receive()
        self._send(not unopened)
        failed, results = self._receive()
        if unopened or failed:
            worker_pool.cache_clear()  # a process that answers late would answer the next run
            title = "open_store in another process, with what pickle carries there of self:"
            problems = [title, *unopened] if unopened else ["in another process:", *failed]
            raise AssertionError("\n".join(dict.fromkeys(problems)))
        return results

    def _send(self, what: object) -> None:
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # a process that has died will not answer either
                pipe.send(what)

    def _receive(self) -> tuple[list[str], list[Any]]:
        """Return what went wrong, and the results of what did not."""
        answers = [_receive(pipe) for pipe in self._pipes]
        return [bad for bad, _ in answers if bad], [result for bad, result in answers if not bad]


@functools.cache
def worker_pool(size: int) -> WorkerPool:
    """Return a pool that later tests use again."""
    return WorkerPool(size)


def _receive(pipe: Connection) -> tuple[str, Any]:
    if not pipe.poll(PATIENCE):
        return f"no answer within {PATIENCE} seconds", None
    try:
        answer: tuple[str, Any] = pipe.recv()
    except EOFError:
        return "the process has died", None
    return answer


def _work(pipe: Connection, number: int) -> None:
    """For each run: open the store, report, wait for the others, act, answer."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            address, clock, act, arguments = pipe.recv()
            problem, store = _attempt(address.open_store, clock)
            pipe.send((problem, None))
            may_begin, answer, closing = pipe.recv(), ("", None), ("", None)
            if may_begin:
                answer = _attempt(act, store, clock, number, *arguments)
            if not problem:
                closing = _attempt(store.close)
            pipe.send(closing if closing[0] else answer)


def _attempt(act: Callable[..., Any], *arguments: object) -> tuple[str, Any]:
    """Return the traceback if `act` raises, and else "" and its result."""
    try:
        return "", act(*arguments)
    except Exception:
        return traceback.format_exc(), None


class ProcessBarrier:
    """Where `count` processes wait for each other, any number of times.

    Each counts its visits in `file`, which all of them map into their memory.
    """

    def __init__(self, file: Path, process: int, count: int) -> None:
        with file.open("r+b") as opened:
            opened.truncate(8 * count)
            self._visits = memoryview(mmap.mmap(opened.fileno(), 8 * count)).cast("Q")
        self._process = process

    def wait(self) -> None:
        visit = self._visits[self._process] = self._visits[self._process] + 1
        until = time.monotonic() + PATIENCE
        while min(self._visits) < visit:
            if time.monotonic() > until:
                raise AssertionError("another process has not reached the barrier")
            time.sleep(0.0002)

    def leave(self) -> None:
        """Stop being waited for."""
        self._visits[self._process] = 1 << 63


def run_in_threads(
    count: int,
    act: Callable[[int, threading.Barrier], T],
    processes: ProcessBarrier | None = None,
) -> list[T]:
    """Return the results of `act(number, barrier)` from threads that interleave finely.

    `barrier.wait()` waits for all threads, and for those of the other `processes`.
    """
    barrier = threading.Barrier(count, processes.wait if processes else None, PATIENCE)

    def run(number: int) -> T:
        try:
            barrier.wait()
            return act(number, barrier)
        except BaseException:
            barrier.abort()
            if processes is not None:
                processes.leave()
            raise

    interval = sys.getswitchinterval()
    # With Python's 5 milliseconds, a thread would often finish before the next one begins.
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(count) as pool:
            futures = [pool.submit(run, number) for number in range(count)]
    finally:
        sys.setswitchinterval(interval)
    errors = [error for future in futures if (error := future.exception()) is not None]
    # First the cause, then what it meant for the threads that waited.
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]


def run_in_fork(act: Callable[[], object]) -> tuple[str, Any]:
    """Return the traceback if `act` raises in a forked child, and else "" and its result."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=lambda: there.send(_attempt(act)), daemon=True)
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads, which is under test here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    there.close()
    answer = _receive(here)
    child.terminate()
    child.join()
    return answer

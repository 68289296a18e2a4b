"""Other processes and threads that all do something to one store at the same moment.

Knows how a suite is found again in a fresh interpreter. Does not know what is done to the store.

A crew's processes are spawned once per test run and wait. They open the store by the suite's
`open_store`, say so, and only when all have done that are they told to begin.
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
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..storage.contract import Storage
from .clock import FakeClock

if TYPE_CHECKING:
    from .suite import Suite

T = TypeVar("T")
Meet = Callable[[], object]
"""What a racer calls to wait for all the others."""

PATIENCE = 120  # seconds; a store that takes longer hangs


class SuiteAddress(NamedTuple):
    """Where another process finds a suite, and what its fixtures have set on it."""

    module: str
    file: str
    name: str
    state: bytes

    @classmethod
    def of(cls, suite: Suite) -> SuiteAddress:
        kind = type(suite)
        if "<locals>" in kind.__qualname__:
            raise AssertionError(f"{kind.__name__} must stand at the top of its module")
        file = getattr(sys.modules.get(kind.__module__), "__file__", None) or ""
        state = {name: value for name, value in vars(suite).items() if _can_travel(value)}
        return cls(kind.__module__, file, kind.__qualname__, bytes(ForkingPickler.dumps(state)))

    def find(self) -> Suite:
        module: Any = _module(self.module, self.file)
        kind = functools.reduce(getattr, self.name.split("."), module)
        suite: Suite = object.__new__(kind)
        vars(suite).update(ForkingPickler.loads(self.state))  # pyright: ignore
        return suite


def _can_travel(value: object) -> bool:
    try:
        ForkingPickler.dumps(value)
    except Exception:  # pickle raises whatever an object's own methods raise
        return False
    return True


def _module(name: str, file: str) -> ModuleType:
    """The module `name`, from `file` where it can't be imported by its name."""
    with contextlib.suppress(ImportError):
        module = importlib.import_module(name)
        if not file or getattr(module, "__file__", None) == file:
            return module
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"the suite's module {name} can't be imported in another process")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(file).parent))
    spec.loader.exec_module(module)
    return module


class Crew:
    """So many processes, spawned: they share nothing with this one."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        for number in range(size):
            ours, theirs = context.Pipe()
            # Daemons end with this process; should it be killed, they end when their pipe does.
            context.Process(target=_work, args=(theirs, number), daemon=True).start()
            theirs.close()
            self._pipes.append(ours)

    def run(
        self, suite: Suite, clock: FakeClock, act: Callable[..., T], *arguments: Any
    ) -> list[T]:
        """The results of `act(store, clock, number, *arguments)`, by the processes' numbers."""
        self._tell((SuiteAddress.of(suite), clock, act, arguments))
        unopened = self._answers()[0]
        self._tell(not unopened)
        failed, results = self._answers()
        if unopened or failed:
            crew.cache_clear()  # whoever did not answer now would answer the next question
            where = "open_store in another process, with what pickle carries there of self:"
            problems = [where, *unopened] if unopened else ["in another process:", *failed]
            raise AssertionError("\n".join(dict.fromkeys(problems)))
        return results

    def _tell(self, what: object) -> None:
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # who has died does not answer either
                pipe.send(what)

    def _answers(self) -> tuple[list[str], list[Any]]:
        """What went wrong, and the results of what did not."""
        answers = [_receive(pipe) for pipe in self._pipes]
        return [bad for bad, _ in answers if bad], [result for bad, result in answers if not bad]


def _receive(pipe: Connection) -> tuple[str, Any]:
    if not pipe.poll(PATIENCE):
        return f"no answer within {PATIENCE} seconds", None
    try:
        answer: tuple[str, Any] = pipe.recv()
    except EOFError:
        return "the process has died", None
    return answer


@functools.cache
def crew(size: int) -> Crew:
    """A crew that stays for the tests to come."""
    return Crew(size)


def _work(pipe: Connection, number: int) -> None:
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            _serve(pipe, number, *pipe.recv())


def _serve(
    pipe: Connection,
    number: int,
    address: SuiteAddress,
    clock: FakeClock,
    act: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    """One run: open the store, say so, wait for the others, act, answer."""
    store: list[Storage] = []
    pipe.send(_attempt(lambda: store.append(address.find().open_store(clock))))
    go = pipe.recv()
    answer = _attempt(lambda: act(store[0], clock, number, *arguments)) if go else ("", None)
    closed = _attempt(lambda: store[0].close() if store else None)
    pipe.send(closed if closed[0] else answer)


def _attempt(act: Callable[[], object]) -> tuple[str, object]:
    try:
        return "", act()
    except Exception:
        return traceback.format_exc(), None


class Line:
    """Where so many processes wait for one another, as often as they like.

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
                raise AssertionError("another process has not come to the line")
            time.sleep(0.0002)

    def leave(self) -> None:
        """Not to be waited for any more."""
        self._visits[self._process] = 1 << 63


def in_threads(count: int, act: Callable[[int, Meet], T], line: Line | None = None) -> list[T]:
    """The results of `act(number, meet)` by threads that interleave finely.

    `meet()` waits until all threads, and all processes of `line`, have come to it.
    """
    barrier = threading.Barrier(count, line.wait if line else None, PATIENCE)

    def run(number: int) -> T:
        try:
            barrier.wait()
            return act(number, barrier.wait)
        except BaseException:
            barrier.abort()
            if line is not None:
                line.leave()
            raise

    interval = sys.getswitchinterval()
    # With Python's 5 milliseconds, one thread would often be done before the next one begins.
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(count) as pool:
            futures = [pool.submit(run, number) for number in range(count)]
    finally:
        sys.setswitchinterval(interval)
    _raise_the_cause([future.exception() for future in futures])
    return [future.result() for future in futures]


def _raise_the_cause(errors: list[BaseException | None]) -> None:
    """Raise what went wrong, rather than what it meant for those who waited."""
    found = [error for error in errors if error is not None]
    for error in sorted(found, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error


def forked(act: Callable[[], object]) -> tuple[str, Any]:
    """What went wrong when a forked child ran `act`, and else its result."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(_attempt(act)), daemon=True)
    with warnings.catch_warnings():
        # Forking beside threads is what is under test.
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    theirs.close()
    answer = _receive(ours)
    child.terminate()
    child.join()
    return answer

"""How long does a slow store hold up the other requests of an event loop?

    python benchmarks/loop_lag.py [--only threads] [--runs 5] [--seconds 2] [--clients 10000]

`slow`: a store whose calls take 100 ms, 22 clients. `frozen`: a Redis that is stopped (SIGSTOP) for
three seconds, 10 clients. They read their session, and as many visitors without a cookie should not
notice. The lag is that of a task that sleeps 2 ms. Shown is the median of
the worst of each run. `inline` is the control: the same middleware that asks the store in the loop.
`quiet` is what the machine adds: a store that answers at once.

`disconnects`: clients that disconnect at a random moment while a logout is saved. Their tasks are
cancelled, as Hypercorn and Daphne do. No acknowledged logout may be lost, no connection leaked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, ParamSpec, TypeVar

import anyio
import trio

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / name) for name in ("", "middleware")]

from sealedstate import Keeper, Key, Settings  # noqa: E402
from sealedstate.asynchronous import AsyncKeeper  # noqa: E402
from sealedstate.storage import MemoryStorage  # noqa: E402
from sealedstate.testing import ScriptedStorage  # noqa: E402
from sealedstate_asgi import SealedSessionMiddleware, sealed  # noqa: E402
from tests.support.kv_servers import KeyValueServer, redis_server  # noqa: E402

P = ParamSpec("P")
T = TypeVar("T")

LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
BEAT = 0.002  # seconds
# Between two requests of a client: a busy process would measure the machine's scheduler.
PAUSE = 0.02  # seconds
SLOW, FROZEN = 0.1, 3.0  # seconds
SLOW_CLIENTS, FROZEN_CLIENTS = 22, 10
DISCONNECT_WITHIN = 0.02  # seconds
MOST_MILLISECONDS = 50


class InlineKeeper(AsyncKeeper):
    """Asks the store in the event loop."""

    async def in_thread(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        return work(*args, **named)


WAYS: dict[str, type[AsyncKeeper]] = {"inline": InlineKeeper, "threads": AsyncKeeper}


class Application:
    """Sessions on `keeper`; `ask` is a request of a client with or without a cookie."""

    def __init__(self, keeper: Keeper, way: str) -> None:
        self.keeper = keeper
        self._middleware = SealedSessionMiddleware(self._answer, keeper)
        self._middleware.keeper = WAYS[way](keeper)
        self.acknowledged: set[str] = set()

    def sign_in(self, subject: str) -> tuple[str, str]:
        """The Cookie header and the id of a session."""
        session = self.keeper.session()
        session.subject = subject
        pairs = [line.partition(";")[0] for line in self.keeper.save(session)]
        return "; ".join(pairs), session.id

    async def ask(self, path: str, cookie: str = "", session_id: str = "") -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(_: Any) -> None:
            pass

        headers = [(b"cookie", cookie.encode())] if cookie else []
        scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
        scope["session_id"] = session_id
        await self._middleware(scope, receive, send)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        session = sealed(scope)
        if scope["path"] == "/logout":
            await session.invalidate()
            self.acknowledged.add(scope["session_id"])
        elif scope["path"] == "/read":
            assert session.subject or session.withheld
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


# --- lag ----------------------------------------------------------------------------------------


async def measure(
    application: Application, cookies: Sequence[str], seconds: float
) -> dict[str, float]:
    """The worst lag and the slowest request of a visitor (milliseconds), and requests a second."""
    worst = {"lag": 0.0, "others": 0.0}
    done = 0
    await application.ask("/read", cookies[0])  # threads and connections are there
    deadline = time.monotonic() + seconds

    async def beat() -> None:
        while time.monotonic() < deadline:
            before = time.monotonic()
            await anyio.sleep(BEAT)
            worst["lag"] = max(worst["lag"], time.monotonic() - before - BEAT)

    async def read(cookie: str, wait: float) -> None:
        nonlocal done
        await anyio.sleep(wait)  # not all of them at once
        while time.monotonic() < deadline:
            await application.ask("/read", cookie)
            done += 1
            await anyio.sleep(PAUSE)

    async def visit(wait: float) -> None:
        nonlocal done
        await anyio.sleep(wait)
        while time.monotonic() < deadline:
            before = time.monotonic()
            await application.ask("/static")
            worst["others"] = max(worst["others"], time.monotonic() - before)
            done += 1
            await anyio.sleep(PAUSE)

    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        for number, cookie in enumerate(cookies):
            wait = PAUSE * number / len(cookies)
            group.start_soon(read, cookie, wait)
            group.start_soon(visit, wait)
    return {name: value * 1000 for name, value in worst.items()} | {"requests": done / seconds}


def keeper_on(storage: Any) -> Keeper:
    key = Key.generate(os.urandom).export()
    return Keeper(Settings(keys=key, storage=storage, accept_weak_store_for=["revocation"]))


def measure_slow(
    way: str, loop: dict[str, Any], seconds: float, delay: float = SLOW
) -> dict[str, float]:
    store = ScriptedStorage(time.time, MemoryStorage(time.time))
    application = Application(keeper_on(store), way)

    async def work() -> dict[str, float]:
        for operation in ("read", "create", "update"):
            store.before(operation, act=lambda *_: time.sleep(delay), times=None)
        return await measure(application, cookies, seconds)

    cookies = [application.sign_in(f"user-{number}")[0] for number in range(SLOW_CLIENTS)]
    return anyio.run(work, **loop)


def measure_frozen(
    way: str, loop: dict[str, Any], seconds: float, server: KeyValueServer
) -> dict[str, float]:
    application = Application(keeper_on(server.url), way)

    cookies = [application.sign_in(f"user-{number}")[0] for number in range(FROZEN_CLIENTS)]

    def freeze() -> None:
        time.sleep(seconds / 4)
        os.kill(server.pid, signal.SIGSTOP)
        time.sleep(FROZEN)
        os.kill(server.pid, signal.SIGCONT)

    with ThreadPoolExecutor(1) as pool:
        frozen = pool.submit(freeze)
        result = anyio.run(measure, application, cookies, FROZEN + seconds / 2, **loop)
        frozen.result()
    application.keeper.deployment.close()
    return result


# --- disconnects --------------------------------------------------------------------------------


def measure_disconnects(
    loop: dict[str, Any], clients: int, server: KeyValueServer
) -> dict[str, int]:
    """How many logouts were acknowledged, lost, and recorded, and connections beyond the first."""
    application = Application(keeper_on(server.url), "threads")
    chance = random.Random(0)
    sessions = [application.sign_in(f"user-{number}") for number in range(clients)]

    async def disconnect(number: int, limiter: anyio.CapacityLimiter) -> None:
        cookie, session_id = sessions[number]
        async with limiter:
            wait = chance.uniform(0, DISCONNECT_WITHIN)
            if loop["backend"] == "trio":
                with trio.move_on_after(wait):
                    await application.ask("/logout", cookie, session_id)
                return
            task = asyncio.ensure_future(application.ask("/logout", cookie, session_id))
            await asyncio.wait([task], timeout=wait)
            task.cancel()
            await asyncio.wait([task])

    async def work() -> None:
        limiter = anyio.CapacityLimiter(16)
        async with anyio.create_task_group() as group:
            for number in range(clients):
                group.start_soon(disconnect, number, limiter)

    anyio.run(work, **loop)
    ended = {session_id for _, session_id in sessions if application.keeper.is_ended(session_id)}
    application.keeper.deployment.close()
    with _client(server) as client:
        left = int(client.info("clients")["connected_clients"]) - 1
    return {
        "acknowledged": len(application.acknowledged),
        "recorded": len(ended),
        "lost": len(application.acknowledged - ended),
        "connections left": left,
    }


@contextlib.contextmanager
def _client(server: KeyValueServer) -> Iterator[Any]:
    import redis

    with redis.Redis(port=server.port) as client:
        yield client


def _take_priority() -> None:
    """Run ahead of the machine's other programs, if this process may (root on Linux).

    On a busy machine a bare task that sleeps 2 ms is late by up to 500 ms otherwise.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except (AttributeError, OSError):
        print("without priority: other programs of the machine count, see the row `quiet`")


# --- the table ----------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Measure everything; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="", help="a part of a row's name")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=10_000)
    options = parser.parse_args(arguments)
    is_missed = False
    logging.getLogger("sealedstate").setLevel(logging.CRITICAL)  # the store is down on purpose
    print(f"{'':32} {'loop lag':>9} {'others':>9} {'requests':>9}   (ms, ms, a second)")
    with redis_server("none", "--maxclients", "4096") as server:
        _take_priority()
        for loop_name, loop in LOOPS.items():
            for way in WAYS:
                scenes: dict[str, Callable[[], dict[str, float]]] = {
                    "quiet": partial(measure_slow, way, loop, options.seconds, 0),
                    "slow": partial(measure_slow, way, loop, options.seconds),
                    "frozen": partial(measure_frozen, way, loop, options.seconds, server),
                }
                for scene, run in scenes.items():
                    name = f"{scene}, {way}, {loop_name}"
                    if options.only not in name:
                        continue
                    runs = [run() for _ in range(options.runs)]
                    middle = {key: median(each[key] for each in runs) for key in runs[0]}
                    shown = " ".join(f"{value:9.1f}" for value in middle.values())
                    print(f"{name:32} {shown}", flush=True)
                    worst = max(middle["lag"], middle["others"])
                    is_missed |= way == "threads" and scene != "quiet" and worst > MOST_MILLISECONDS
            name = f"disconnects, {loop_name}"
            if options.only in name:
                counts = measure_disconnects(loop, options.clients, server)
                print(f"{name:32} {counts}", flush=True)
                is_missed |= counts["lost"] + counts["connections left"] > 0
    return int(is_missed)


if __name__ == "__main__":
    sys.exit(main())

"""A keeper in event loops: what waits, where it waits, and what a cancellation leaves behind."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from sealedstate import (
    ConfigurationError,
    Keeper,
    Key,
    LegacyReader,
    Outcome,
    SessionNotLoaded,
    Settings,
)
from sealedstate.asynchronous import AsyncKeeper, AsyncSessionRegistry, Logout, SealedSession
from sealedstate.errors import StorageUnavailable
from sealedstate.legacy import StoredSession
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock, keeper
from tests.support.shop import node, setting, signed_in

Work = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Work], None]:
    return lambda work: anyio.run(work, backend=request.param)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> ScriptedStorage:
    return ScriptedStorage(clock)


@pytest.fixture
def shop(clock: Clock, store: ScriptedStorage) -> Keeper:
    return node(clock, store)


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of what never waits."""
    with pytest.raises(StopIteration) as end:
        work.send(None)
    return end.value.value


def threads_of(store: ScriptedStorage) -> set[int | None]:
    """The threads that ask the store from now on."""
    found: set[int | None] = set()
    store.before(act=lambda *_: found.add(threading.current_thread().ident))
    return found


def test_nothing_waits_without_a_store(clock: Clock) -> None:
    shop = keeper(clock)
    browser = signed_in(shop, cart="tea")
    session = AsyncKeeper(shop).session(browser.jar.header())
    finish(AsyncKeeper(shop).load(session))
    session["cart"] = "rice"
    assert finish(AsyncKeeper(shop).save(session)).outcome is Outcome.SAVED
    finish(AsyncKeeper(shop).invalidate(session))
    with pytest.raises(ConfigurationError, match="store"):
        finish(AsyncKeeper(shop).revoke_subject("ann"))


def test_store_is_asked_in_other_threads_only(
    shop: Keeper, store: ScriptedStorage, run: Callable[[Work], None]
) -> None:
    browser, front = signed_in(shop, cart="tea", vault="gold"), AsyncKeeper(shop)

    async def work() -> None:
        threads = threads_of(store)
        session = front.session(browser.jar.header())
        await front.load(session, ["vault"])
        assert session["vault"] == "gold"
        session["vault"] = "silver"
        browser.jar.receive(await front.save(session))
        await front.invalidate(session)
        await front.revoke_subject("ann")
        assert await front.is_ended(session.id) is False
        assert await front.revoke_session(session.id)
        assert threads
        assert threading.current_thread().ident not in threads

    run(work)
    assert browser.session().refusal == "signed-out"


def test_registry_asks_the_store_in_other_threads_only(
    clock: Clock, store: ScriptedStorage, run: Callable[[Work], None]
) -> None:
    shop = node(clock, store, accept_weak_store_for=["revocation", "sessions"])
    front = AsyncKeeper(shop)
    devices = AsyncSessionRegistry(front, where="here", most=3)
    browsers = [signed_in(shop) for _ in range(3)]

    async def work() -> None:
        threads = threads_of(store)
        session = SealedSession(front, front.session(browsers[0].jar.header()))
        with pytest.raises(SessionNotLoaded):
            await devices.of(session)
        await session.load()
        assert not session.is_used
        listed = {each.session_id: each for each in await devices.of(session)}
        assert session.is_used
        assert listed[session.id].is_current
        assert len(listed) == 3
        ended = await devices.end_one(session, listed[browsers[1].session().id].id)
        assert ended is not None
        assert await devices.end_one(session, listed[session.id].id) is None
        assert await devices.end_others(session.session) == 1
        assert len(devices.registry.list("ann")) == 1
        threads.discard(threading.current_thread().ident)  # of the line above

    run(work)
    assert [browser.session().subject for browser in browsers] == ["ann", None, None]


def test_what_was_not_loaded_raises_instead_of_waiting(shop: Keeper) -> None:
    browser, front = signed_in(shop, cart="tea", vault="gold"), AsyncKeeper(shop)

    async def work() -> None:
        session = front.session(browser.jar.header())
        uses: list[Callable[[], object]]
        uses = [lambda: session["cart"], lambda: session.subject, session.invalidate]
        for use in uses:
            with pytest.raises(SessionNotLoaded, match="load_session"):
                use()
        await front.load(session)
        assert (session["cart"], session.subject) == ("tea", "ann")
        uses = [lambda: session["vault"], session.invalidate]
        for use in uses:
            with pytest.raises(SessionNotLoaded, match="load_session"):
                use()
        await front.load(session, ["vault"])
        assert session["vault"] == "gold"

    anyio.run(work)


def test_request_that_only_reads_needs_one_thread_and_a_visitor_none(
    shop: Keeper, store: ScriptedStorage
) -> None:
    browser, front = signed_in(shop, cart="tea"), AsyncKeeper(shop)

    async def read() -> None:
        session = front.session(browser.jar.header())
        await front.load(session)
        assert session["cart"] == "tea"
        asked = len(store.calls)
        assert finish(front.save(session)).outcome is Outcome.UNCHANGED
        assert len(store.calls) == asked

    anyio.run(read)
    session = front.session("theme=dark")
    assert session.subject is None
    assert finish(front.save(session)) == []


def test_request_needs_no_thread_while_logouts_are_known(
    run: Callable[[Work], None], clock: Clock, store: ScriptedStorage
) -> None:
    weak = ["revocation", "feed"]
    shop = node(clock, store, revocation="feed", accept_weak_store_for=weak, monotonic=clock)
    feed = shop.deployment.feed
    assert feed is not None
    feed._start = lambda: None  # type: ignore[method-assign]
    asynchronous, browser = AsyncKeeper(shop), signed_in(shop, vault="secret", cart=[1])
    other = signed_in(shop, cart=[2])

    async def work() -> None:
        feed.poll()
        store.calls.clear()
        session = asynchronous.session(other.jar.header())
        finish(asynchronous.load(session))
        assert session["cart"] == [2]
        finish(asynchronous.save(session))
        assert not store.calls
        session = asynchronous.session(browser.jar.header())
        await asynchronous.load(session, ["vault"])
        assert session["vault"] == "secret"
        # Once it may be too old, a thread asks.
        clock.forward(1.95)
        ids = threads_of(store)
        session = asynchronous.session(other.jar.header())
        await asynchronous.load(session)
        assert session["cart"] == [2]
        clock.forward(1)
        session = asynchronous.session(other.jar.header())
        await asynchronous.load(session)
        assert ids
        assert threading.current_thread().ident not in ids

    run(work)


def test_legacy_cookie_asks_the_store_too(shop: Keeper, clock: Clock) -> None:
    reader = LegacyReader("starlette", "secret", datetime(2100, 1, 1, tzinfo=UTC), "old")
    moved = node(clock, ScriptedStorage(clock), legacy=reader)
    assert moved.asks_store("old=x")
    with pytest.raises(SessionNotLoaded):
        assert AsyncKeeper(moved).session("old=x").subject
    assert not shop.asks_store("old=x")
    # One that reads a former store must not be waited for either.
    fetched = replace(reader, fetch=lambda text: StoredSession(text, {"cart": "tea"}))
    without = Keeper(Settings(keys=Key.generate(os.urandom).export(), legacy=fetched))
    front = AsyncKeeper(without)
    session = front.session("old=x")
    with pytest.raises(SessionNotLoaded):
        assert session["cart"]
    anyio.run(front.load, session)
    assert session["cart"] == "tea"
    anyio.run(front.save, session)
    assert not without.asks_store("theme=dark")


def test_no_more_threads_wait_than_are_allowed(
    shop: Keeper, store: ScriptedStorage, run: Callable[[Work], None]
) -> None:
    front, now, most = AsyncKeeper(shop, threads=3), [0], [0]
    header = signed_in(shop).jar.header()

    def wait(*_: object) -> None:
        now[0] += 1
        most[0] = max(most[0], now[0])
        time.sleep(0.01)
        now[0] -= 1

    store.before("read", act=wait, times=None)

    async def work() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(front.load, front.session(header))

    run(work)
    assert most == [3]
    with pytest.raises(ConfigurationError, match="threads"):
        AsyncKeeper(shop, threads=0)


def test_logout_is_finished_although_its_task_is_cancelled(
    shop: Keeper, store: ScriptedStorage, run: Callable[[Work], None]
) -> None:
    browser, front = signed_in(shop, cart="tea"), AsyncKeeper(shop)
    began = threading.Event()

    def wait(*_: object) -> None:
        began.set()
        time.sleep(0.05)

    store.before("create", act=wait)

    async def work() -> None:
        session = front.session(browser.jar.header())
        await front.load(session)
        async with anyio.create_task_group() as group:
            group.start_soon(front.invalidate, session)
            while not began.is_set():
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()
        assert session.subject is None  # what the thread did is in the session

    run(work)
    assert browser.session().refusal == "signed-out"


def test_session_after_a_logout_is_kept_until_its_end_is_recorded(
    shop: Keeper, clock: Clock, store: ScriptedStorage, run: Callable[[Work], None]
) -> None:
    browser, front = signed_in(shop, cart="tea"), AsyncKeeper(shop)
    captured = browser.jar.header()

    async def work() -> None:
        session = front.session(captured)
        await front.load(session)
        before = (session.id, session.subject, dict(session))
        store.fail("create")
        for _ in range(2):  # as the last of two that were not awaited
            logout = Logout(front, session)
            session["cart"] = "rice"
        with pytest.raises(StorageUnavailable):
            await logout
        assert (session.id, session.subject, dict(session)) == before
        assert (await front.save(session)).outcome is Outcome.UNCHANGED
        store.recover()
        logout = Logout(front, session)
        assert (session.subject, len(session)) == (None, 0)
        session.subject = "bob"
        session.limit(persistent=True)
        await logout
        browser.jar.receive(await front.save(session))

    run(work)
    assert shop.session(captured).refusal == "signed-out"
    session = browser.session()
    assert (session.subject, session.persistent, len(session)) == ("bob", True, 0)


def test_cancelled_task_of_asyncio_finishes_its_work_first(
    shop: Keeper, store: ScriptedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    browser, front = signed_in(shop, cart="tea"), AsyncKeeper(shop)
    store.before("create", act=lambda *_: time.sleep(0.05))

    async def cancel(times: int) -> None:
        session = front.session(browser.jar.header())
        await front.load(session)
        task = asyncio.ensure_future(front.invalidate(session))
        for _ in range(times):
            await asyncio.sleep(0.01)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel(3))
    assert browser.session().refusal == "signed-out"
    browser = signed_in(shop)
    store.before("create", act=lambda *_: time.sleep(0.05))
    store.fail("create")
    with caplog.at_level(logging.ERROR, "sealedstate"):
        asyncio.run(cancel(1))
    assert any("cancelled" in record.message for record in caplog.records)
    assert browser.session().subject == "ann"


def test_keeper_serves_several_event_loops(shop: Keeper) -> None:
    front, browser = AsyncKeeper(shop), Browser(shop)
    browser.visit(setting(n=1))

    async def work() -> None:
        session = front.session(browser.jar.header())
        await front.load(session)
        session["n"] = 2

    for _ in range(2):
        for backend in ("asyncio", "trio"):
            anyio.run(work, backend=backend)
    anyio.run(front.close)
    anyio.run(work)

"""The health application: what it answers, how little it costs, and that it never hangs."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from sealedstate import Keeper, Key, Settings
from sealedstate.errors import NoPrimaryKey, StorageUnavailable
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.storage import SQLiteStorage, Storage
from sealedstate_wsgi import HealthApplication, SealedSessionMiddleware
from tests.support.client import ask, cookie_header, send
from tests.support.forks import run_child
from tests.support.installed import need_driver
from tests.support.jar import Clock
from tests.support.ports import free_port
from tests.support.server_process import until
from tests.support.servers import gunicorn

KEY = Key.generate(os.urandom)
CANARY = "canary-9d1f"
HANGS = 30  # seconds
UP = b'{"status": "up", "keys": "up", "store": "up"}\n'
STORE_DOWN = b'{"status": "down", "keys": "up", "store": "down"}\n'


class CountingStore(SQLiteStorage):
    """Counts its pings, and how many of them ran at the same time."""

    pings = running = most = 0
    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def ping(self) -> None:
        self.pings += 1
        self.running += 1
        self.most = max(self.most, self.running)
        self.meanwhile()
        super().ping()
        self.running -= 1


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> CountingStore:
    return CountingStore(tmp_path / "store.db", clock)


@pytest.fixture
def keeper(store: CountingStore, clock: Clock) -> Keeper:
    return keeper_with(store, clock)


def keeper_with(storage: Storage | str | None, clock: Clock, key: Key = KEY) -> Keeper:
    keys = StaticKeys(Keyring((key,)))
    return Keeper(Settings(keys=keys, storage=storage, clock=clock))


def page(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"page"]


# --- what it answers ----------------------------------------------------------------------------


def test_health_is_up_if_a_key_is_active_and_the_store_answers(
    keeper: Keeper, clock: Clock
) -> None:
    application = validator(HealthApplication(keeper))
    get, head = ask(application), ask(application, method="HEAD")
    assert (get.status, get.body) == (200, UP)
    assert dict(get.headers) == {
        "Content-Type": "application/json",
        "Content-Length": str(len(UP)),
        "Cache-Control": "no-store",
    }
    assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")
    without_store = ask(HealthApplication(keeper_with(None, clock)))
    assert (without_store.status, without_store.body) == (200, b'{"status": "up", "keys": "up"}\n')


def test_health_is_down_until_a_key_is_active(clock: Clock) -> None:
    keeper = keeper_with(None, clock, Key.generate(os.urandom, activates_at=int(clock.now) + 100))
    application = HealthApplication(keeper)
    answer = ask(validator(application))
    assert (answer.status, answer.body) == (503, b'{"status": "down", "keys": "down"}\n')
    assert answer.all("Cache-Control") == ["no-store"]
    assert isinstance(keeper.health()["keys"], NoPrimaryKey)
    clock.now += 100
    assert ask(application).status == 200


def test_health_is_down_while_the_store_does_not_answer(tmp_path: Path, clock: Clock) -> None:
    folder, moved = tmp_path / "folder", tmp_path / "moved"
    folder.mkdir()
    keeper = keeper_with(f"sqlite:{folder}/store.db", clock)
    folder.rename(moved)
    clock.now += 1
    keeper.deployment.store.close()  # type: ignore[union-attr]  # there is one
    application = HealthApplication(keeper)
    answer = ask(validator(application))
    assert (answer.status, answer.body) == (503, STORE_DOWN)
    assert isinstance(keeper.health()["store"], StorageUnavailable)
    moved.rename(folder)
    clock.now += 1
    assert ask(application).body == UP


def test_other_methods_are_refused_and_do_not_ask_the_store(
    keeper: Keeper, store: CountingStore
) -> None:
    before = store.pings
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get"):
        answer = ask(HealthApplication(keeper), method=method)
        assert answer.status == 405
        assert answer.all("Allow") == ["GET, HEAD"]
        assert answer.all("Cache-Control") == ["no-store"]
    assert store.pings == before


def test_health_can_be_mounted_beside_and_behind_the_middleware(keeper: Keeper) -> None:
    sessions = SealedSessionMiddleware(page, keeper.settings)
    application = DispatcherMiddleware(sessions, {"/healthz": HealthApplication(sessions)})
    assert ask(application, "/healthz").body == UP
    assert ask(application, "/").body == b"page"
    session = keeper.session()
    session["cart"] = ["tea"]
    cookie = cookie_header(keeper.save(session))
    sessions = SealedSessionMiddleware(page, keeper)
    sessions.app = HealthApplication(sessions)
    for sent in (cookie, "__Host-Http-s=garbage"):
        answer = ask(sessions, cookie=sent)
        assert (answer.body, answer.set_cookies, answer.all("Vary")) == (UP, [], [])
    # The session was not opened.
    assert sessions.keeper.counts.keys() == {"saved", "store-call-answered"}


def test_live_process_says_so_without_asking_the_store(
    keeper: Keeper, store: CountingStore
) -> None:
    health = HealthApplication(keeper)
    application = DispatcherMiddleware(health, {"/livez": health, "/readyz": health})
    before = store.pings
    for path in ("/livez", "/livez/"):
        answer = ask(application, path)
        assert (answer.status, answer.body) == (200, b'{"status": "up"}\n')
    assert store.pings == before
    assert ask(application, "/readyz").body == UP
    assert store.pings == before + 1


def test_reason_is_logged_and_not_sent(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    need_driver("redis")
    port = free_port()
    keeper = keeper_with(f"redis://:{CANARY}@127.0.0.1:{port}", clock)
    caplog.clear()
    answer = ask(HealthApplication(keeper))
    assert answer.body == STORE_DOWN
    assert str(port) not in str(answer.headers)
    assert f"store: redis store 127.0.0.1:{port}: no connection" in caplog.text
    assert CANARY not in caplog.text


def test_reason_is_logged_once_each_time_it_goes_down(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    folder, moved = tmp_path / "folder", tmp_path / "moved"
    folder.mkdir()
    keeper = keeper_with(f"sqlite:{folder}/store.db", clock)
    application = HealthApplication(keeper)

    def warnings_after(times: int) -> int:
        caplog.clear()
        for _ in range(times):
            clock.now += 1
            ask(application)
        return len([record for record in caplog.records if record.name == "sealedstate.wsgi"])

    with caplog.at_level(logging.INFO):
        assert warnings_after(3) == 0
        folder.rename(moved)
        keeper.deployment.store.close()  # type: ignore[union-attr]  # there is one
        assert warnings_after(3) == 1
        assert warnings_after(3) == 0
        moved.rename(folder)
        assert warnings_after(3) == 0
        folder.rename(moved)
        keeper.deployment.store.close()  # type: ignore[union-attr]  # there is one
        assert warnings_after(3) == 1


# --- what it costs ------------------------------------------------------------------------------


def test_answer_is_kept_for_a_time_of_the_clock(
    keeper: Keeper, store: CountingStore, clock: Clock
) -> None:
    def check(application: HealthApplication, moves: list[tuple[float, int]]) -> None:
        for seconds, pings in moves:
            clock.now += seconds
            before = store.pings
            for method in ("GET", "HEAD"):
                assert ask(application, method=method).status == 200
            assert store.pings == before + pings

    for_a_second = HealthApplication(keeper)
    check(for_a_second, [(0.0, 1), (0.5, 0), (0.25, 0), (0.25, 1), (0.875, 0), (9.0, 1)])
    check(for_a_second, [(-3600.0, 1)])  # a clock that steps back
    check(HealthApplication(keeper, keep_for=10), [(0.0, 1), (9.0, 0), (1.0, 1)])


def test_one_request_asks_and_the_others_wait_for_its_answer(
    keeper: Keeper, store: CountingStore
) -> None:
    application, others = HealthApplication(keeper), threading.Event()
    before = store.pings
    store.meanwhile = lambda: others.wait(HANGS)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, application) for _ in range(8)]
        until(lambda: store.running, "a request asks")
        others.set()
        assert {each.result(HANGS).body for each in answers} == {UP}
    assert store.pings == before + 1


def test_no_two_requests_ask_at_the_same_time(keeper: Keeper, store: CountingStore) -> None:
    application = HealthApplication(keeper, keep_for=0)
    before = store.pings
    with ThreadPoolExecutor(8) as pool:
        for answer in [pool.submit(ask, application) for _ in range(64)]:
            assert answer.result(HANGS).status == 200
    assert (store.pings, store.most) == (before + 64, 1)


# --- that it does not hang ----------------------------------------------------------------------


def test_silent_store_delays_the_answer_by_at_most_its_timeout(clock: Clock) -> None:
    need_driver("redis")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        keeper = keeper_with(f"redis://127.0.0.1:{port}?sealedstate_timeout=0.05", clock)
        application = HealthApplication(keeper, keep_for=0)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(ask, application).result(HANGS).body == STORE_DOWN


def test_unexpected_error_is_raised_and_not_kept(keeper: Keeper, store: CountingStore) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    application = HealthApplication(keeper)
    store.meanwhile = fail
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            ask(application)
    del store.meanwhile
    assert ask(application).status == 200


def test_child_that_is_forked_while_a_request_asks_answers(
    keeper: Keeper, store: CountingStore
) -> None:
    application, resume = HealthApplication(keeper), threading.Event()

    def ask_in_child() -> bool:
        store.meanwhile = lambda: None
        return ask(application).body == UP

    store.meanwhile = lambda: resume.wait(HANGS)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, application)
        until(lambda: store.running, "a request asks")
        is_up = run_child(ask_in_child)
        resume.set()
        assert asking.result(HANGS).status == 200
    assert is_up


ALONE = """
from pathlib import Path
from sealedstate import Keeper, Settings
from sealedstate_wsgi import HealthApplication

store = Path(__file__).with_name("folder") / "store.db"
application = HealthApplication(Keeper(Settings(keys="env:", storage=f"sqlite:{store}")))
"""


@pytest.mark.slow
def test_health_can_be_served_on_a_separate_port(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    environ = {"SEALEDSTATE_KEYS": KEY.export()}
    with gunicorn(tmp_path, ALONE, environ=environ, workers=1) as server:
        for path in ("/", "/healthz?x=1"):
            assert send(server.port, "GET", path).body == UP
        head = send(server.port, "HEAD", "/")
        assert (head.status, head.body) == (200, b"")
        assert head.all("Content-Length") == [str(len(UP))]
        assert send(server.port, "POST", "/", body=b"x" * 1000).status == 405

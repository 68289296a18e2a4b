"""The health application: its answers, its cost, and that it never hangs."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from sealedstate import Keeper, Key, Keyring, NoPrimaryKey, Settings, StorageUnavailable
from sealedstate.key_sources import StaticKeys
from sealedstate.storage import SQLiteStorage, Storage
from sealedstate_wsgi import HealthApplication, SealedSessionMiddleware
from tests.support.client import ask, cookie_header, send
from tests.support.installed import need_driver
from tests.support.jar import Clock
from tests.support.ports import free_port
from tests.support.servers import gunicorn
from tests.support.sql_server import until

KEY = Key.generate(os.urandom)
START = 1_800_000_000.0
CANARY = "canary-9d1f"
HANGS = 30  # seconds
UP = b'{"status": "up", "keys": "up", "store": "up"}\n'
STORE_DOWN = b'{"status": "down", "keys": "up", "store": "down"}\n'


class CountingStore(SQLiteStorage):
    """Counts pings, and how many run at the same time."""

    asked = asking = most = 0

    def ping(self) -> None:
        self.asked += 1
        self.asking += 1
        self.most = max(self.most, self.asking)
        self.meanwhile()
        super().ping()
        self.asking -= 1

    def meanwhile(self) -> None:
        """What happens during a ping."""


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


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


# --- answers ------------------------------------------------------------------------------------


def test_health_is_up_when_a_key_may_seal_and_the_store_answers(keeper: Keeper) -> None:
    answer = ask(validator(HealthApplication(keeper)))
    assert (answer.status, answer.body) == (200, UP)
    assert dict(answer.headers) == {
        "Content-Type": "application/json",
        "Content-Length": str(len(UP)),
        "Cache-Control": "no-store",
    }


def test_health_without_a_store_is_up_when_a_key_may_seal(clock: Clock) -> None:
    answer = ask(HealthApplication(keeper_with(None, clock)))
    assert (answer.status, answer.body) == (200, b'{"status": "up", "keys": "up"}\n')


def test_health_is_down_until_a_key_may_seal(clock: Clock) -> None:
    key = Key.generate(os.urandom, activates_at=int(START) + 100)
    keeper = keeper_with(None, clock, key)
    application = HealthApplication(keeper)
    answer = ask(validator(application))
    assert (answer.status, answer.body) == (503, b'{"status": "down", "keys": "down"}\n')
    assert answer.all("Cache-Control") == ["no-store"]
    assert isinstance(keeper.health()["keys"], NoPrimaryKey)
    clock.now += 100
    assert ask(application).status == 200


def test_health_is_down_while_the_store_does_not_answer(tmp_path: Path, clock: Clock) -> None:
    keeper = keeper_with(f"sqlite:{tmp_path}/later/store.db", clock)
    application = HealthApplication(keeper)
    answer = ask(validator(application))
    assert (answer.status, answer.body) == (503, STORE_DOWN)
    assert isinstance(keeper.health()["store"], StorageUnavailable)
    (tmp_path / "later").mkdir()
    clock.now += 1
    assert ask(application).body == UP


def test_head_is_answered_like_get_without_a_body(keeper: Keeper) -> None:
    application = validator(HealthApplication(keeper))
    get, head = ask(application), ask(application, method="HEAD")
    assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get"])
def test_other_methods_are_refused_without_a_ping(
    keeper: Keeper, store: CountingStore, method: str
) -> None:
    before = store.asked
    answer = ask(HealthApplication(keeper), method=method)
    assert answer.status == 405
    assert answer.all("Allow") == ["GET, HEAD"]
    assert answer.all("Cache-Control") == ["no-store"]
    assert store.asked == before


def test_health_can_be_mounted_beside_the_application(keeper: Keeper, clock: Clock) -> None:
    sessions = SealedSessionMiddleware(page, keeper.settings)
    application = DispatcherMiddleware(sessions, {"/healthz": HealthApplication(sessions)})
    assert ask(application, "/healthz").body == UP
    assert ask(application, "/").body == b"page"


def test_health_touches_no_session_behind_the_middleware(keeper: Keeper) -> None:
    session = keeper.session()
    session["cart"] = ["tea"]
    cookie = cookie_header(keeper.save(session))
    sessions = SealedSessionMiddleware(page, keeper)
    sessions.app = HealthApplication(sessions)
    for sent in (cookie, "__Host-s=garbage"):
        answer = ask(sessions, cookie=sent)
        assert answer.body == UP
        assert not answer.set_cookies
        assert not answer.all("Vary")
    assert sessions.keeper.counts == {"saved": 1}


# --- what it does not say -----------------------------------------------------------------------


def test_cause_of_an_outage_is_logged_and_not_answered(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    need_driver("redis")
    port = free_port()
    keeper = keeper_with(f"redis://:{CANARY}@127.0.0.1:{port}", clock)
    caplog.clear()
    answer = ask(HealthApplication(keeper))
    assert answer.body == STORE_DOWN
    assert str(port) not in str(answer.headers)
    assert f"store: redis store 127.0.0.1:{port}: no connection" in caplog.text
    assert CANARY not in caplog.text


def test_each_outage_is_logged_once(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    keeper = keeper_with(f"sqlite:{folder}/store.db", clock)
    application = HealthApplication(keeper)

    def warnings_after(times: int) -> int:
        caplog.clear()
        for _ in range(times):
            clock.now += 1
            ask(application)
        return len([record for record in caplog.records if record.name == "sealedstate.wsgi"])

    with caplog.at_level(logging.INFO):
        assert warnings_after(3) == 1
        assert warnings_after(3) == 0
        folder.mkdir()
        assert warnings_after(3) == 0
        (folder / "store.db").unlink()
        folder.rmdir()
        keeper.deployment.store.close()  # type: ignore[union-attr]  # there is one
        assert warnings_after(3) == 1


# --- cost ---------------------------------------------------------------------------------------


def test_store_is_pinged_once_a_second_at_most(
    keeper: Keeper, store: CountingStore, clock: Clock
) -> None:
    application = HealthApplication(keeper)
    before = store.asked
    for moved, more in ((0.0, 1), (0.5, 0), (0.25, 0), (0.25, 1), (0.875, 0), (9.0, 1)):
        clock.now += moved
        before += more
        for method in ("GET", "HEAD"):
            assert ask(application, method=method).status == 200
        assert store.asked == before


def test_answer_is_not_kept_when_the_clock_steps_back(
    keeper: Keeper, store: CountingStore, clock: Clock
) -> None:
    application = HealthApplication(keeper)
    ask(application)
    before = store.asked
    clock.now -= 3600
    ask(application)
    assert store.asked == before + 1


def test_answer_is_kept_for_the_given_time(
    keeper: Keeper, store: CountingStore, clock: Clock
) -> None:
    application = HealthApplication(keeper, keep_for=10)
    ask(application)
    before = store.asked
    clock.now += 9
    ask(application)
    assert store.asked == before
    clock.now += 1
    ask(application)
    assert store.asked == before + 1


def test_concurrent_requests_share_one_ping(keeper: Keeper, store: CountingStore) -> None:
    application, others = HealthApplication(keeper), threading.Event()
    before = store.asked
    store.meanwhile = lambda: assert_true(others.wait(HANGS))  # type: ignore[method-assign]
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, application) for _ in range(8)]
        until(lambda: store.asking, "a request pings")
        others.set()
        assert {answer.result(HANGS).body for answer in asked} == {UP}
    assert store.asked == before + 1


def test_no_two_pings_run_at_the_same_time(keeper: Keeper, store: CountingStore) -> None:
    application = HealthApplication(keeper, keep_for=0)
    before = store.asked
    with ThreadPoolExecutor(8) as pool:
        for answer in [pool.submit(ask, application) for _ in range(64)]:
            assert answer.result(HANGS).status == 200
    assert store.asked == before + 64
    assert store.most == 1


def assert_true(found: bool) -> None:
    assert found


# --- hangs --------------------------------------------------------------------------------------


def test_silent_store_holds_the_answer_no_longer_than_its_timeout(clock: Clock) -> None:
    need_driver("redis")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        keeper = keeper_with(f"redis://127.0.0.1:{port}?sealedstate_timeout=0.05", clock)
        application = HealthApplication(keeper, keep_for=0)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(ask, application).result(HANGS).body == STORE_DOWN


def test_unexpected_error_is_raised_and_pinged_again(keeper: Keeper, store: CountingStore) -> None:
    application = HealthApplication(keeper)
    store.meanwhile = fail  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            ask(application)
    del store.meanwhile
    assert ask(application).status == 200


def fail() -> None:
    raise ZeroDivisionError


def test_child_that_was_forked_during_a_ping_answers(keeper: Keeper, store: CountingStore) -> None:
    application, go_on = HealthApplication(keeper), threading.Event()
    store.meanwhile = lambda: assert_true(go_on.wait(HANGS))  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, application)
        until(lambda: store.asking, "a request pings")
        status = in_a_child(lambda: ask_without_waiting(application, store))
        go_on.set()
        assert asking.result(HANGS).status == 200
    assert status == 0


def ask_without_waiting(application: HealthApplication, store: CountingStore) -> bool:
    store.meanwhile = lambda: None  # type: ignore[method-assign]
    return ask(application).body == UP


def in_a_child(act: Callable[[], bool]) -> int:
    """The exit code of a child in which `act` returns whether all is well."""
    with warnings.catch_warnings():
        # Python warns of what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        signal.alarm(HANGS)
        try:
            os._exit(0 if act() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- alone on a port ----------------------------------------------------------------------------

ALONE = """
from pathlib import Path
from sealedstate import Keeper, Settings
from sealedstate_wsgi import HealthApplication

store = Path(__file__).with_name("folder") / "store.db"
application = HealthApplication(Keeper(Settings(keys="env:", storage=f"sqlite:{store}")))
"""


@pytest.mark.slow
def test_health_can_serve_a_separate_port(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    environ = {"SEALEDSTATE_KEYS": KEY.export()}
    with gunicorn(tmp_path, ALONE, environ=environ, workers=1) as server:
        for path in ("/", "/healthz?x=1"):
            assert send(server.port, "GET", path).body == UP
        head = send(server.port, "HEAD", "/")
        assert (head.status, head.body) == (200, b"")
        assert head.all("Content-Length") == [str(len(UP))]
        assert send(server.port, "POST", "/", body=b"x" * 1000).status == 405

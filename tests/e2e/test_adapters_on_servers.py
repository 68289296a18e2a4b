"""What every adapter owes, behind real servers."""

from __future__ import annotations

import http.client
import inspect
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sealedstate import Key, Settings
from sealedstate.keyring import export_lookup
from sealedstate.testing.adapters import SUBJECT_KEY, AdapterContract, Visitor
from tests.support.client import OverHTTP
from tests.support.installed import need_driver
from tests.support.pages.django import DjangoContract
from tests.support.servers import ASGI_SERVERS, WSGI_SERVERS, WebServer, running, takes_workers

pytestmark = [pytest.mark.server, pytest.mark.slow]

SOURCE = """
import json
import os

from sealedstate import Settings, plain
from tests.support.pages import {module}

config = json.loads(os.environ["KIT"])
application = {module}.{make}({config})
"""
SETTINGS = "Settings(**config, convert=plain)"
# The module in tests/support/pages, its function, and what that is given.
ADAPTERS = {
    "wsgi": ("wsgi", "make_with_errors", SETTINGS),
    "flask": ("flask", "make", SETTINGS),
    "django": ("django", "make", "config"),
    "starlette": ("asgi", "make", SETTINGS),
    "fastapi": ("asgi", "make_fastapi", SETTINGS),
    "django asgi": ("django", "make_async", "config"),
    "quart": ("quart", "make", SETTINGS),
    "litestar": ("litestar", "make", SETTINGS),
    "pyramid": ("pyramid", "make", SETTINGS),
    "aiohttp": ("aiohttp", "make", SETTINGS),
}
ON_WSGI, ON_ASGI = ("wsgi", "flask", "django"), ("starlette", "fastapi", "django asgi")
EVERY = [
    (server, adapter)
    for servers, adapters in ((WSGI_SERVERS, ON_WSGI), (ASGI_SERVERS, ON_ASGI))
    for server in servers
    for adapter in adapters
    # Django runs in event loops of asyncio only.
    if (server, adapter) != ("hypercorn trio", "django asgi")
]
# These are on the adapters above, so the servers that their users have are enough.
OTHERS = [
    ("hypercorn", "quart"),
    ("uvicorn uvloop", "quart"),
    ("uvicorn", "litestar"),
    ("hypercorn trio", "litestar"),
    ("granian", "litestar"),
    ("waitress", "pyramid"),
    ("gunicorn threads", "pyramid"),
    ("aiohttp", "aiohttp"),
]
KEK = Key.generate(os.urandom)
# Of the kit's headers one is longer than these servers take by default.
OPTIONS = {"gunicorn": ("--limit-request-field_size", "32768")}


def promises(
    contract: AdapterContract, has_store: bool
) -> Iterator[tuple[str, Callable[..., None]]]:
    """The tests of the kit, with a name and a value of what each is parametrized by."""
    for name in dir(contract):
        method = getattr(contract, name)
        if not name.startswith("test_") or not callable(method):
            continue
        marks = {mark.name: mark.args for mark in getattr(method, "pytestmark", [])}
        needs = marks.get("usefixtures", ())
        if "binding" in needs or ("store" in needs and not has_store):
            continue
        if "parametrize" not in marks:
            yield name, method
            continue
        argument, values = marks["parametrize"]
        for value in values:
            yield f"{name} {str(value)[:20]!r}", partial(method, **{argument: value})


def serve(
    server: str, adapter: str, folder: Path, config: Mapping[str, Any], *options: str
) -> AbstractContextManager[WebServer]:
    """The page of the kit behind a server, which has two workers if it has workers."""
    module, make, given = ADAPTERS[adapter]
    need_driver(*{"quart", "litestar", "pyramid", "aiohttp"} & {module})
    environ = {"KIT": json.dumps(config), "SEALEDSTATE_KEK": KEK.export()}
    workers = ("--workers", "2") if takes_workers(server) else ()
    options = (*workers, *OPTIONS.get(server.partition(" ")[0], ()), *options)
    source = SOURCE.format(module=module, make=make, config=given)
    return running(WebServer(server, folder, options, environ), source)


def config_of(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "keys": [Key.generate(os.urandom).export(), export_lookup(os.urandom(32))],
        "subject_key": SUBJECT_KEY,
        "longest_lifetime": 30 * 86400,
        **stored,
    }


def check_promises(server: str, adapter: str, folder: Path, stored: Mapping[str, Any]) -> None:
    config = config_of(stored)
    contract = DjangoContract() if "django" in adapter else AdapterContract()
    failures = []
    with serve(server, adapter, folder, config) as web:
        client, settings = OverHTTP(web.port), Settings(**config)
        for name, promise in promises(contract, has_store=bool(stored)):
            known = {"client": client, "settings": settings, "visitor": Visitor(client)}
            wanted = inspect.signature(promise).parameters
            try:
                promise(**{each: known[each] for each in wanted if each in known})
            except Exception as error:
                failures.append(f"{name}: {type(error).__name__}: {error}")
        assert failures == []


@pytest.mark.parametrize(
    ("server", "adapter"),
    # Each server with two of the adapters, and each adapter; a third of the pairs only in soak.
    [
        *(
            pytest.param(*pair, marks=pytest.mark.soak if number % 3 == number // 3 % 3 else ())
            for number, pair in enumerate(EVERY)
        ),
        *OTHERS,
    ],
)
def test_promises_are_kept(server: str, adapter: str, tmp_path: Path) -> None:
    storage = f"sqlite:{tmp_path / 'sessions.db'}?sealedstate_timeout=30"
    stored = {"storage": storage, "part_policies": {"vault": "server"}}
    check_promises(server, adapter, tmp_path, stored)


class BindingContract(AdapterContract):
    has_binding = True

    def __init__(self, port: int) -> None:
        self.port = port

    def open_client(self, settings: Settings) -> OverHTTP:
        return OverHTTP(self.port)


@pytest.mark.soak
@pytest.mark.parametrize(("server", "adapter"), [*EVERY, *OTHERS])
def test_sessions_are_bound_to_devices(server: str, adapter: str, tmp_path: Path) -> None:
    need_driver("cryptography")
    storage = f"sqlite:{tmp_path / 'sessions.db'}?sealedstate_timeout=30"
    config = config_of({"storage": storage, "binding_path": "/session-binding"})
    with serve(server, adapter, tmp_path, config) as web:
        BindingContract(web.port).test_bound_session_opens_only_in_its_browser(Settings(**config))


# Servers of different designs, each with one of the adapters; the others take minutes.
ONCE = {
    "gunicorn": "wsgi",
    "waitress": "flask",
    "gunicorn gevent": "django",
    "uvicorn": "fastapi",
    "granian": "starlette",
}


@pytest.mark.parametrize(
    ("server", "adapter"),
    [
        pytest.param(*pair, marks=() if ONCE.get(pair[0]) == pair[1] else pytest.mark.soak)
        for pair in EVERY
    ],
)
def test_promises_that_need_no_store_are_kept_without(
    server: str, adapter: str, tmp_path: Path
) -> None:
    check_promises(server, adapter, tmp_path, {})


# --- ways to start workers and to replace them --------------------------------------------------

# The server, the adapter, options, and whether the server has to replace its workers.
MODELS = [
    ("gunicorn threads", "flask", ("--preload",), True),
    # The application is made before gevent replaces the locks.
    ("gunicorn gevent", "flask", ("--preload",), False),
    ("gunicorn gevent", "django", (), True),
    # Forks without Python's hooks.
    ("uwsgi", "flask", (), True),
    ("uwsgi threads", "wsgi", ("--lazy-apps", "--offload-threads", "1"), True),
    ("granian wsgi", "wsgi", (), True),
    ("hypercorn trio", "starlette", (), False),
    ("uvicorn uvloop", "fastapi", (), True),
]
VISITORS, SECONDS, PATIENCE = 8, 1, 120
TORN = (OSError, http.client.HTTPException)


@pytest.mark.parametrize(("server", "adapter", "options", "reloads"), MODELS)
def test_no_session_is_lost(
    server: str, adapter: str, options: tuple[str, ...], reloads: bool, tmp_path: Path
) -> None:
    """Many at once, with a store that has the keys, too: no error, no lost write, no other user."""
    config = {
        "keys": "store:",
        "storage": f"sqlite:{tmp_path / 'sessions.db'}?sealedstate_timeout=30",
        "part_policies": {"vault": "server"},
        "subject_key": SUBJECT_KEY,
        "reload_every": 1,
    }
    torn, is_over, last = 0, threading.Event(), time.monotonic() + PATIENCE

    def visit(number: int) -> int:
        """The number of requests."""
        visitor, count = Visitor(client), 0

        def do(name: str, argument: Any = None) -> Any:
            """The result; asks again if a worker that ends has torn the connection."""
            nonlocal torn
            while True:
                try:
                    return visitor.do(name, *(() if argument is None else (argument,)))
                except TORN:
                    torn += 1
                    assert time.monotonic() < last, "the server does not come back"
                    time.sleep(0.1)

        do("sign_in", f"user{number}")
        while not is_over.is_set():
            count += 1
            values = {"number": number, "count": count, "vault": "v" * 3000}
            do("put", values)
            assert do("everything") == {SUBJECT_KEY: f"user{number}", **values}
        return 2 * count

    with (
        serve(server, adapter, tmp_path, config, *options) as web,
        ThreadPoolExecutor(VISITORS) as pool,
    ):
        client = OverHTTP(web.port)
        visits = [pool.submit(visit, number) for number in range(VISITORS)]
        for _ in range(SECONDS):
            time.sleep(1)
            if reloads:
                web.replace_workers()
        is_over.set()
        print(f"{sum(each.result() for each in visits)} requests, {torn} torn connections")

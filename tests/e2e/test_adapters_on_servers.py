"""What every adapter owes, behind real servers, each with two workers where it has workers."""

from __future__ import annotations

import http.client
import inspect
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sealedstate import Key, Settings
from sealedstate.keyring import export_lookup
from sealedstate.testing.adapters import SUBJECT_KEY, AdapterContract, Answer, Visitor
from tests.support.installed import need_driver
from tests.support.servers import ASGI_SERVERS, WSGI_SERVERS, WebServer, running, takes_workers

pytestmark = pytest.mark.server

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
    "wsgi": ("wsgi", "make", SETTINGS),
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
    (server, adapter, with_store)
    for servers, adapters in ((WSGI_SERVERS, ON_WSGI), (ASGI_SERVERS, ON_ASGI))
    for server in servers
    for adapter in adapters
    # Django runs in event loops of asyncio only.
    if (server, adapter) != ("hypercorn trio", "django asgi")
    for with_store in (True, False)
]
# These are on the adapters above, so the servers that their users have are enough.
EVERY += [
    (server, adapter, with_store)
    for server, adapter in (
        ("hypercorn", "quart"),
        ("uvicorn", "litestar"),
        ("waitress", "pyramid"),
        ("aiohttp", "aiohttp"),
    )
    for with_store in (True, False)
]
EVERY += [
    ("uvicorn uvloop", "quart", True),
    ("hypercorn trio", "litestar", True),
    ("granian", "litestar", True),
    ("gunicorn threads", "pyramid", True),
]
# Of the kit's headers one is longer than these servers take by default.
OPTIONS = {"gunicorn": ("--limit-request-field_size", "32768")}


class OverHTTP:
    """Sends each request over another connection, so that it meets any worker."""

    def __init__(self, port: int) -> None:
        self._port = port

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.putrequest("POST", path)
            for name, value in [*headers, ("Content-Length", str(len(body)))]:
                connection.putheader(name, value.encode("latin-1"))
            connection.endheaders(body)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        except http.client.RemoteDisconnected:
            # uWSGI closes the connection where a WSGI application raises.
            return Answer(500, ())
        finally:
            connection.close()

    def close(self) -> None:
        """Nothing is open between requests."""


def promises(
    contract: AdapterContract, with_store: bool
) -> Iterator[tuple[str, Callable[..., None]]]:
    """The tests of the kit, with a name and a value of what each is parametrized by."""
    for name in dir(contract):
        method = getattr(contract, name)
        if not name.startswith("test_") or not callable(method):
            continue
        marks = {mark.name: mark.args for mark in getattr(method, "pytestmark", [])}
        if "usefixtures" in marks and not with_store:
            continue
        if "parametrize" not in marks:
            yield name, method
            continue
        argument, values = marks["parametrize"]
        for value in values:
            yield f"{name} {str(value)[:20]!r}", partial(method, **{argument: value})


@pytest.mark.parametrize(("server", "adapter", "with_store"), EVERY)
def test_promises_are_kept(server: str, adapter: str, with_store: bool, tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "keys": [Key.generate(os.urandom).export(), export_lookup(os.urandom(32))],
        "subject_key": SUBJECT_KEY,
        "longest_lifetime": 30 * 86400,
    }
    if with_store:
        config["storage"] = f"sqlite:{tmp_path / 'sessions.db'}?sealedstate_timeout=30"
        config["part_policies"] = {"vault": "server"}
    module, make, given = ADAPTERS[adapter]
    need_driver(*{"quart", "litestar", "pyramid", "aiohttp"} & {module})
    source = SOURCE.format(module=module, make=make, config=given)
    workers = ("--workers", "2") if takes_workers(server) else ()
    options = (*workers, *OPTIONS.get(server.partition(" ")[0], ()))
    environ = {"KIT": json.dumps(config)}
    web = WebServer(server, tmp_path, options, environ)
    contract = AdapterContract()
    if module == "django":
        from tests.support.pages.django import DjangoContract

        contract = DjangoContract()
    client, settings = OverHTTP(web.port), Settings(**config)
    failures = []
    with running(web, source):
        for name, promise in promises(contract, with_store):
            known = {"client": client, "settings": settings, "visitor": Visitor(client)}
            wanted = inspect.signature(promise).parameters
            given = {each: known[each] for each in wanted if each in known}
            try:
                promise(**given)
            except Exception as error:
                failures.append(f"{name}: {type(error).__name__}: {error}")
        assert failures == []

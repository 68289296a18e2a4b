"""A page in each framework, with the framework's own session and with ours.

The page leaves its session alone, reads a text, or changes a small number; the session is the plain
dict of W1 for all. Each framework runs in process, in an application of one route that is set up as
its documentation recommends, with the fastest of the recommended settings. Asynchronous frameworks
answer in one event loop that runs for a whole turn. Frameworks are imported when they are asked
for, and by name.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from time import thread_time_ns
from types import SimpleNamespace
from typing import Any

from benchmarks import store_servers
from benchmarks.cookie_pairs import pairs
from benchmarks.cpu_rounds import Turn
from benchmarks.peer_settings import configured_django, pyramid_nacl_factory
from benchmarks.request_apps import (
    BODY,
    KINDS,
    MODIFIED,
    Application,
    Page,
    django_pages,
    make_environ,
    plain_uses,
    set_cookies,
    wsgi_turn,
)
from benchmarks.workloads import Workload
from sealedstate import Key

WITHOUT = "without"
OURS = "sealedstate"
SIGNED, ENCRYPTED, STORED = "signed", "encrypted", "on a server"

Turns = Mapping[str, Turn]
"""The turns of a contender: `WITHOUT` a session, and by kind."""
Visit = Callable[[str], Awaitable[list[str]]]
"""One request with this Cookie header, to its Set-Cookie lines."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A session of a framework. `protection`: how it is kept; SIGNED ones can be read by users."""

    framework: str
    session: str
    protection: str
    distributions: tuple[str, ...]
    start: Callable[[Workload], Turns]

    @property
    def row(self) -> str:
        return f"{self.framework}: {self.session}"


def event_turn(visit: Visit, cookie: str) -> Turn:
    """A turn of requests, one after the other, in the event loop."""

    async def requests(calls: int) -> int:
        begun = thread_time_ns()
        for _ in range(calls):
            await visit(cookie)
        return thread_time_ns() - begun

    return lambda calls: event_loop().run_until_complete(requests(calls))


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    """The loop of all asynchronous applications; it runs for one turn at a time."""
    return asyncio.new_event_loop()


def asgi_visit(application: Any) -> Visit:
    """Requests as a server makes them of a browser's, to an ASGI application."""
    fields = [(name.encode(), value.encode()) for name, value in _browser_fields()]

    async def visit(cookie: str) -> list[str]:
        received: list[Any] = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            return received.pop() if received else await asyncio.Event().wait()

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "root_path": "",
            "headers": [*fields, (b"cookie", cookie.encode())],
            "client": ("192.0.2.1", 50000),
            "server": ("app.example.edu", 443),
            "state": {},
        }
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await application(scope, receive, send)
        _check(sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]))
        return [
            value.decode("latin-1")
            for name, value in sent[0]["headers"]
            if name.lower() == b"set-cookie"
        ]

    return visit


def make_keys() -> list[str]:
    """One key of ours, as most applications have."""
    return [Key.generate(os.urandom).export()]


def _check(status: int, body: bytes) -> None:
    if (status, body) != (200, BODY):
        raise RuntimeError(f"the application answered {status}: {body[:200]!r}")


# --- frameworks of WSGI ---------------------------------------------------------------------------


@cache
def redis_url() -> str:
    """A Redis that runs until this program ends. Raises NotThere."""
    running = ExitStack()
    atexit.register(running.close)
    return running.enter_context(store_servers.started("redis")).url


def _flask(setup: Callable[[Any], object]) -> Callable[[Workload], Turns]:
    flask = import_module("flask")

    def made(page: Page | None, setup: Callable[[Any], object]) -> Application:
        app = flask.Flask("bench")
        setup(app)

        def view() -> Any:
            if page is not None:
                page(flask.session)
            return flask.Response(BODY, content_type="text/plain")

        app.add_url_rule("/", "view", view)
        application: Application = app.wsgi_app
        return application

    without, untouched = made(None, lambda app: None), made(None, setup)
    return lambda load: _wsgi_turns(load, without, lambda page: made(page, setup), untouched)


def flask_signed(load: Workload) -> Turns:
    secret = secrets.token_hex()
    return _flask(lambda app: setattr(app, "secret_key", secret))(load)


def flask_session(load: Workload) -> Turns:
    extension, client = import_module("flask_session"), import_module("redis").Redis
    server = client.from_url(redis_url())

    def setup(app: Any) -> None:
        app.config.update(SESSION_TYPE="redis", SESSION_REDIS=server, SESSION_PERMANENT=False)
        extension.Session(app)

    return _flask(setup)(load)


def flask_ours(load: Workload) -> Turns:
    adapter, keys = import_module("sealedstate_flask"), make_keys()

    def setup(app: Any) -> None:
        app.config["SEALEDSTATE_KEYS"] = keys
        adapter.SealedSessions(app)

    return _flask(setup)(load)


def _django(name: str) -> Callable[[Workload], Turns]:
    """Its handler with an engine of its sessions: the database is SQLite in memory."""

    def start(load: Workload) -> Turns:
        settings = configured_django()
        if name == "cached_db":
            backend = "django.core.cache.backends.redis.RedisCache"
            caches = import_module("django.core.cache").caches
            caches.settings = {"default": {"BACKEND": backend, "LOCATION": redis_url()}}
        if name == OURS:
            settings.SESSION_ENGINE = "sealedstate_django"
            middleware = "sealedstate_django.SealedSessionMiddleware"
        else:
            settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{name}"
            middleware = "django.contrib.sessions.middleware.SessionMiddleware"
        return _wsgi_turns(load, *django_pages(settings, middleware))

    return start


def _pyramid(setup: Callable[[Any], object]) -> Callable[[Workload], Turns]:
    config, responses = import_module("pyramid.config"), import_module("pyramid.response")

    def made(page: Page | None, setup: Callable[[Any], object]) -> Application:
        def view(request: Any) -> Any:
            if page is not None:
                page(request.session)
            return responses.Response(BODY, content_type="text/plain")

        with config.Configurator() as configurator:
            setup(configurator)
            configurator.add_route("view", "/")
            configurator.add_view(view, route_name="view")
            application: Application = configurator.make_wsgi_app()
        return application

    without, untouched = made(None, lambda config: None), made(None, setup)
    return lambda load: _wsgi_turns(load, without, lambda page: made(page, setup), untouched)


def pyramid_signed(load: Workload) -> Turns:
    sessions = import_module("pyramid.session")
    # By default, it is written in each request that read it.
    factory = sessions.SignedCookieSessionFactory(
        secrets.token_hex(), secure=True, httponly=True, reissue_time=120, timeout=1200
    )
    return _pyramid(lambda config: config.set_session_factory(factory))(load)


def pyramid_encrypted(load: Workload) -> Turns:
    factory = pyramid_nacl_factory()
    return _pyramid(lambda config: config.set_session_factory(factory))(load)


def pyramid_ours(load: Workload) -> Turns:
    keys = make_keys()

    def setup(config: Any) -> None:
        config.add_settings({"sealedstate.keys": keys})
        config.include("sealedstate_pyramid")

    return _pyramid(setup)(load)


# --- frameworks of event loops --------------------------------------------------------------------


def starlette_signed(load: Workload) -> Turns:
    return _starlette(
        "starlette.middleware.sessions:SessionMiddleware",
        secret_key=secrets.token_hex(),
        https_only=True,
    )(load)


def starlette_ours(load: Workload) -> Turns:
    return _starlette("sealedstate_asgi:SealedSessionMiddleware", keys=make_keys())(load)


def _starlette(name: str, **options: Any) -> Callable[[Workload], Turns]:
    module = import_module("starlette.applications")
    routing, responses = import_module("starlette.routing"), import_module("starlette.responses")
    wrap = import_module("starlette.middleware").Middleware
    where, _, what = name.partition(":")
    middleware = [wrap(getattr(import_module(where), what), **options)]

    def made(page: Page | None, has_session: bool) -> Visit:
        async def view(request: Any) -> Any:
            if page is not None:
                page(request.session)
            return responses.Response(BODY, media_type="text/plain")

        routes = [routing.Route("/", view)]
        return asgi_visit(module.Starlette(routes=routes, middleware=middleware * has_session))

    return lambda load: _event_turns(load, made)


def litestar_encrypted(load: Workload) -> Turns:
    client_side = import_module("litestar.middleware.session.client_side")
    return _litestar(client_side.CookieBackendConfig(secret=secrets.token_bytes(32)))(load)


def litestar_stored(load: Workload) -> Turns:
    """Its default store, the memory of the process."""
    return _litestar(
        import_module("litestar.middleware.session.server_side").ServerSideSessionConfig()
    )(load)


def litestar_ours(load: Workload) -> Turns:
    return _litestar(import_module("sealedstate_litestar").SealedSessionConfig(keys=make_keys()))(
        load
    )


def _litestar(config: Any) -> Callable[[Workload], Turns]:
    module, response = import_module("litestar"), import_module("litestar.response").Response
    store = import_module("litestar.stores.memory").MemoryStore()

    def made(page: Page | None, has_session: bool) -> Visit:
        async def view(request: Any) -> Any:
            if page is not None:
                page(request.session)
            return response(BODY, media_type="text/plain")

        view.__annotations__ = {"request": module.Request, "return": response}
        app = module.Litestar(
            [module.get("/")(view)],
            middleware=[config.middleware] if has_session else [],
            stores={"sessions": store},
            logging_config=None,
            openapi_config=None,
        )
        return asgi_visit(app)

    return lambda load: _event_turns(load, made)


def quart_signed(load: Workload) -> Turns:
    secret = secrets.token_hex()
    return _quart(lambda app: setattr(app, "secret_key", secret))(load)


def quart_ours(load: Workload) -> Turns:
    adapter, keys = import_module("sealedstate_quart"), make_keys()

    def setup(app: Any) -> None:
        app.config["SEALEDSTATE_KEYS"] = keys
        adapter.SealedSessions(app)

    return _quart(setup)(load)


def _quart(setup: Callable[[Any], object]) -> Callable[[Workload], Turns]:
    quart = import_module("quart")

    def made(page: Page | None, has_session: bool) -> Visit:
        app = quart.Quart("bench")
        if has_session:
            setup(app)

        async def view() -> Any:
            if page is not None:
                page(quart.session)
            return quart.Response(BODY, content_type="text/plain")

        app.add_url_rule("/", "view", view)
        return asgi_visit(app)

    return lambda load: _event_turns(load, made)


def aiohttp_fernet(load: Workload) -> Turns:
    fernet = import_module("cryptography.fernet").Fernet
    storage = import_module("aiohttp_session.cookie_storage").EncryptedCookieStorage
    return _aiohttp_session(storage(fernet(fernet.generate_key()), secure=True))(load)


def aiohttp_nacl(load: Workload) -> Turns:
    storage = import_module("aiohttp_session.nacl_storage").NaClCookieStorage
    return _aiohttp_session(storage(secrets.token_bytes(32), secure=True))(load)


def _aiohttp_session(storage: Any) -> Callable[[Workload], Turns]:
    module = import_module("aiohttp_session")
    return _aiohttp(lambda app: module.setup(app, storage), module.get_session)


def aiohttp_ours(load: Workload) -> Turns:
    module, keys = import_module("sealedstate_aiohttp"), make_keys()
    return _aiohttp(lambda app: module.setup(app, keys=keys), module.get_session)(load)


def _aiohttp(
    setup: Callable[[Any], object], get_session: Callable[[Any], Awaitable[Any]]
) -> Callable[[Workload], Turns]:
    """Requests as aiohttp's server makes them of what its parser returns, without a connection."""
    web, http = import_module("aiohttp.web"), import_module("aiohttp.http")
    empty = import_module("aiohttp.streams").EMPTY_PAYLOAD
    multidict, url = import_module("multidict"), import_module("yarl").URL("/")
    fields = {name.title(): value for name, value in _browser_fields()}
    connection = SimpleNamespace(ssl_context=True, peername=("192.0.2.1", 50000), sockname=None)

    def made(page: Page | None, has_session: bool) -> Visit:
        app = web.Application()
        if has_session:
            setup(app)

        async def view(request: Any) -> Any:
            if page is not None:
                page(await get_session(request))
            return web.Response(body=BODY, content_type="text/plain")

        app.router.add_get("/", view)
        app.freeze()

        async def visit(cookie: str) -> list[str]:
            given = multidict.CIMultiDict({**fields, "Cookie": cookie})
            headers = multidict.CIMultiDictProxy(given)
            message = http.RawRequestMessage(
                *("GET", "/", http.HttpVersion11, headers, ()),
                *(False, None, False, False, url),
            )
            request = web.Request(message, empty, connection, _Writer(), None, event_loop())
            response = await app._handle(request)
            await response.prepare(request)
            _check(response.status, response.body)
            return list(response.headers.getall("Set-Cookie", []))

        return visit

    return lambda load: _event_turns(load, made)


class _Writer:
    """A connection of aiohttp that sends nothing."""

    async def write_headers(self, status_line: str, headers: object) -> None:
        """Nothing."""


def _event_turns(load: Workload, made: Callable[[Page | None, bool], Visit]) -> Turns:
    fill, read, change = plain_uses(load)

    def answer(visit: Visit, cookie: str = "") -> list[str]:
        return event_loop().run_until_complete(visit(cookie))

    visits = dict(zip(KINDS, (made(None, True), made(read, True), made(change, True)), strict=True))
    cookie = browser_cookie(answer(made(fill, True)))
    without = made(None, False)
    answer(without, cookie)
    check_written({kind: answer(visit, cookie) for kind, visit in visits.items()})
    turns = {kind: event_turn(visit, cookie) for kind, visit in visits.items()}
    return {WITHOUT: event_turn(without, cookie), **turns}


def _wsgi_turns(
    load: Workload,
    without: Application,
    made: Callable[[Page], Application],
    untouched: Application,
) -> Turns:
    fill, read, change = plain_uses(load)
    pages = dict(zip(KINDS, (untouched, made(read), made(change)), strict=True))
    cookie = browser_cookie(set_cookies(made(fill)))
    set_cookies(without, cookie)
    check_written({kind: set_cookies(page, cookie) for kind, page in pages.items()})
    turns = {kind: wsgi_turn(page, cookie) for kind, page in pages.items()}
    return {WITHOUT: wsgi_turn(without, cookie), **turns}


def browser_cookie(lines: list[str]) -> str:
    """The Cookie header of a browser that got these Set-Cookie lines, and has two other cookies."""
    if not lines:
        raise RuntimeError("a new session is not written")
    return "; ".join(["theme=dark", *pairs(lines), "consent=yes.1790000000"])


def check_written(lines: Mapping[str, list[str]]) -> None:
    """Raise RuntimeError unless the changed session was sent, or its server has the change."""
    if not lines[MODIFIED]:
        raise RuntimeError("a changed session is not written")


def _browser_fields() -> Iterator[tuple[str, str]]:
    """The header fields of a browser's request, without its cookies."""
    for name, value in make_environ().items():
        if name.startswith("HTTP_"):
            yield name.removeprefix("HTTP_").replace("_", "-").lower(), value


CONTENDERS = (
    Contender("Flask", "signed", SIGNED, ("flask", "itsdangerous"), flask_signed),
    Contender("Flask", "Flask-Session, Redis", STORED, ("flask-session", "redis"), flask_session),
    Contender("Flask", OURS, ENCRYPTED, ("flask",), flask_ours),
    Contender("Django", "signed_cookies", SIGNED, ("django",), _django("signed_cookies")),
    Contender("Django", "db, SQLite in memory", STORED, ("django",), _django("db")),
    Contender("Django", "cached_db, Redis", STORED, ("django", "redis"), _django("cached_db")),
    Contender("Django", OURS, ENCRYPTED, ("django",), _django(OURS)),
    Contender("Pyramid", "signed", SIGNED, ("pyramid",), pyramid_signed),
    Contender("Pyramid", "nacl", ENCRYPTED, ("pyramid", "pyramid-nacl-session"), pyramid_encrypted),
    Contender("Pyramid", OURS, ENCRYPTED, ("pyramid",), pyramid_ours),
    Contender("Starlette", "signed", SIGNED, ("starlette", "itsdangerous"), starlette_signed),
    Contender("Starlette", OURS, ENCRYPTED, ("starlette",), starlette_ours),
    Contender("Litestar", "AES-GCM", ENCRYPTED, ("litestar", "cryptography"), litestar_encrypted),
    Contender("Litestar", "memory", STORED, ("litestar",), litestar_stored),
    Contender("Litestar", OURS, ENCRYPTED, ("litestar",), litestar_ours),
    Contender("Quart", "signed", SIGNED, ("quart", "itsdangerous"), quart_signed),
    Contender("Quart", OURS, ENCRYPTED, ("quart",), quart_ours),
    Contender(
        "aiohttp",
        "Fernet",
        ENCRYPTED,
        ("aiohttp", "aiohttp-session", "cryptography"),
        aiohttp_fernet,
    ),
    Contender("aiohttp", "NaCl", ENCRYPTED, ("aiohttp", "aiohttp-session", "pynacl"), aiohttp_nacl),
    Contender("aiohttp", OURS, ENCRYPTED, ("aiohttp",), aiohttp_ours),
)

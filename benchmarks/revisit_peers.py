"""A session that arrived is opened, read, changed and saved by each of the other products.

Knows how to drive each product's own session code, from a Cookie header to Set-Cookie lines. Does
not know the workloads, how calls are timed, or us. Products are imported when they are asked for,
and by name.

Each is spared what is not its session: requests and responses stand ready, and are only emptied;
what is asynchronous is driven without an event loop. Its own scan of the header, its checks and its
own way to write a Set-Cookie line count.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Coroutine, Iterable
from http.cookies import SimpleCookie
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from benchmarks.cookie_pairs import pairs
from benchmarks.cpu_rounds import BEFORE, Step, Turn, looped
from benchmarks.node_peers import start_turn
from benchmarks.peer_settings import beaker_options, configured_django, pyramid_nacl_factory
from benchmarks.workloads import Workload

SEEN = "seen"

Change = Callable[[Any], None]
"""What is done to the mapping that a product gives."""
Save = Callable[[str, Change], list[str]]
"""A Cookie header in, the change in between, Set-Cookie lines out."""


def flask() -> Save:
    """SecureCookieSessionInterface, with Werkzeug's cookie parser and writer."""
    module, parse = import_module("flask"), import_module("werkzeug.http").parse_cookie
    app = module.Flask("bench")
    app.secret_key = secrets.token_hex()
    interface, response = app.session_interface, app.response_class()

    def save(header: str, change: Change) -> list[str]:
        request = SimpleNamespace(cookies=parse(header))
        session = interface.open_session(app, request)
        change(session)
        response.headers.clear()
        interface.save_session(app, session, response)
        return list(response.headers.getlist("Set-Cookie"))

    return save


def django() -> Save:
    """SessionMiddleware over signed_cookies, with Django's cookie parser and writer."""
    configured_django()
    http, sessions = import_module("django.http"), "django.contrib.sessions.middleware"
    one = import_module(sessions).SessionMiddleware(lambda _: None)
    response = http.HttpResponse()

    def save(header: str, change: Change) -> list[str]:
        request = SimpleNamespace(COOKIES=http.parse_cookie(header))
        one.process_request(request)
        change(request.session)
        response.cookies.clear()
        response.headers._store.clear()
        one.process_response(request, response)
        return [cookie.OutputString() for cookie in response.cookies.values()]

    return save


def starlette() -> Save:
    """SessionMiddleware around an application that answers at once."""
    middleware = import_module("starlette.middleware.sessions").SessionMiddleware
    change_it: list[Change] = []
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        change_it[0](scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    one = middleware(application, secrets.token_hex())

    def save(header: str, change: Change) -> list[str]:
        change_it[:], sent[:] = [change], []
        _drive(one({"type": "http", "headers": [(b"cookie", header.encode())]}, None, send))
        return [line.decode() for name, line in sent[0]["headers"] if name == b"set-cookie"]

    return save


def litestar() -> Save:
    """ClientSideSessionBackend, on a connection to a route of an application."""
    module, connections = import_module("litestar"), import_module("litestar.connection")
    config = import_module("litestar.middleware.session.client_side").CookieBackendConfig
    made = config(secret=secrets.token_bytes(32))
    backend = made._backend_class(made)

    def page() -> None:
        """Nothing."""

    app = module.Litestar([module.get("/", sync_to_thread=False)(page)], logging_config=None)
    handler = app.routes[0].route_handlers[0]
    fixed = {"type": "http", "litestar_app": app, "app": app, "route_handler": handler}

    def save(header: str, change: Change) -> list[str]:
        scope = {**fixed, "headers": [(b"cookie", header.encode())], "state": {}}
        connection = connections.ASGIConnection(scope)
        session = _drive(backend.load_from_connection(connection))
        change(session)
        message: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
        _drive(backend.store_in_message(session, message, connection))
        lines = (value for name, value in message["headers"] if name.lower() == b"set-cookie")
        return [line.decode() for line in lines]

    return save


def aiohttp_fernet() -> Save:
    module = import_module("cryptography.fernet").Fernet
    storage = import_module("aiohttp_session.cookie_storage").EncryptedCookieStorage
    return _aiohttp(storage(module(module.generate_key())))


def aiohttp_nacl() -> Save:
    storage = import_module("aiohttp_session.nacl_storage").NaClCookieStorage
    return _aiohttp(storage(secrets.token_bytes(32)))


def _aiohttp(storage: Any) -> Save:
    """The storage, with the cookie parser and writer of aiohttp's requests and responses."""
    response = import_module("aiohttp.web").Response()
    parse = _aiohttp_parser()

    def save(header: str, change: Change) -> list[str]:
        cookies = {name: one.value for name, one in parse(header)}
        request = SimpleNamespace(cookies=cookies)
        session = _drive(storage.load_session(request))
        change(session)
        response.cookies.clear()
        _drive(storage.save_session(request, response, session))
        return [cookie.OutputString() for cookie in response.cookies.values()]

    return save


def _aiohttp_parser() -> Callable[[str], Iterable[tuple[str, Any]]]:
    """What `BaseRequest.cookies` calls: since aiohttp 3.12 a parser of its own."""
    try:
        parse = import_module("aiohttp._cookie_helpers").parse_cookie_header
    except (ImportError, AttributeError):
        return lambda header: SimpleCookie(header).items()
    found: Callable[[str], Iterable[tuple[str, Any]]] = parse
    return found


def beaker() -> Save:
    """SessionObject with an encrypted cookie, as its middleware uses it."""
    middleware = import_module("beaker.middleware").SessionMiddleware
    make = import_module("beaker.session").SessionObject
    options = middleware(lambda *_: [], beaker_options()).options

    def save(header: str, change: Change) -> list[str]:
        session = make({"HTTP_COOKIE": header}, **options)
        change(session)
        session.save()
        session.persist()
        line = session.__dict__["_headers"]["cookie_out"]
        return [line] if line else []

    return save


def pyramid_nacl() -> Save:
    """EncryptedCookieSessionFactory with JSON, on a request and response of Pyramid's."""
    factory = pyramid_nacl_factory()
    module = import_module("pyramid.request")
    response = import_module("pyramid.response").Response()

    def save(header: str, change: Change) -> list[str]:
        request = module.Request({"HTTP_COOKIE": header})
        session = factory(request)
        change(session)
        response.headers.pop("Set-Cookie", None)
        request._process_response_callbacks(response)
        return list(response.headers.getall("Set-Cookie"))

    return save


def joserfc() -> Save:
    """A JWT in a JWE; no header is scanned, no Set-Cookie line written."""
    jwt, key = import_module("joserfc.jwt"), import_module("joserfc.jwk").OctKey
    registry = import_module("joserfc.jwe").JWERegistry()
    secret, head = key.generate_key(256), {"alg": "dir", "enc": "A256GCM"}

    def save(header: str, change: Change) -> list[str]:
        token = header.removeprefix("session=")
        session = jwt.decode(token, secret, registry=registry).claims if token else {}
        change(session)
        return [f"session={jwt.encode(head, session, secret, registry=registry)}"]

    return save


def fernet_json() -> Save:
    """The recipe that applications write by hand; no header is scanned, no line written."""
    module = import_module("cryptography.fernet")
    box = module.Fernet(module.Fernet.generate_key())

    def save(header: str, change: Change) -> list[str]:
        token = header.removeprefix("session=")
        session = json.loads(box.decrypt(token)) if token else {}
        change(session)
        text = json.dumps(session, separators=(",", ":"))
        return [f"session={box.encrypt(text.encode()).decode()}"]

    return save


SAVERS: dict[str, Callable[[], Save]] = {
    "Flask": flask,
    "Django signed_cookies": django,
    "Starlette": starlette,
    "Litestar": litestar,
    "aiohttp-session Fernet": aiohttp_fernet,
    "aiohttp-session NaCl": aiohttp_nacl,
    "Beaker": beaker,
    "pyramid_nacl_session": pyramid_nacl,
    "joserfc JWE": joserfc,
    "Fernet + JSON": fernet_json,
}
NODE = {"iron-session": "iron-session", "Auth.js": "@auth/core"}


def start_peer(row: str, load: Workload) -> Turn:
    """Turns of a product's visits to the session of a workload."""
    reads = "user" if load.subject is not None else "user_id"
    if row in NODE:
        return start_turn(NODE[row], load.plain(), reads)
    return looped(_step(SAVERS[row](), load.plain(), reads))


def _step(save: Save, plain: dict[str, object], reads: str) -> Step:
    header = "; ".join(pairs(save("", lambda session: session.update(plain | {SEEN: BEFORE}))))

    def step(number: int) -> object:
        def change(session: Any) -> None:
            _ = session[reads]
            session[SEEN] = number

        return save(header, change)

    _check(save, header, step)
    return step


def _check(save: Save, header: str, step: Any) -> None:
    """What a step has written opens again, with the change in it."""
    again: list[object] = []
    save("; ".join(pairs(step(BEFORE + 1))), lambda session: again.append(session[SEEN]))
    if again != [BEFORE + 1]:
        raise RuntimeError("a change was not saved")


def _drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of what never waits, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("it waits for something")

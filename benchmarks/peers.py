"""How other products put a session into cookies: their own code, their own defaults.

Knows how to drive each product until it writes its Set-Cookie lines, and what it does not do.
Does not know the workloads or how cookies are counted. Products are imported when they are asked
for, and by name, so that neither this module nor a type checker needs any of them installed.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

from benchmarks import node_peers
from benchmarks.peer_settings import beaker_options, configured_django, pyramid_nacl_factory

Plain = dict[str, object]
Emit = Callable[[Plain], list[str]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A product: its row, the distributions that it comes from, and what to know about it."""

    row: str
    distributions: tuple[str, ...]
    note: str
    start: Callable[[], Emit]
    package: str = ""
    """Where it is one of Node's: its name there."""

    def versions(self) -> dict[str, str]:
        if self.package:
            return node_peers.versions(self.package)
        return {name: version(name) for name in self.distributions}


def start_flask() -> Emit:
    """An application whose one view fills the session, behind Flask's own test client."""
    flask = import_module("flask")
    app = flask.Flask("bench")
    app.secret_key = secrets.token_hex()

    def note(session: Plain) -> list[str]:
        app.view_functions["fill"] = lambda: flask.session.update(session) or ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # werkzeug warns above 4093 bytes, and emits
            return list(app.test_client().get("/").headers.getlist("Set-Cookie"))

    app.add_url_rule("/", "fill", lambda: "")
    return note


def start_django() -> Emit:
    """Django's SessionMiddleware over its signed_cookies engine."""
    configured_django()
    http = import_module("django.http")
    middleware = import_module("django.contrib.sessions.middleware").SessionMiddleware

    def note(session: Plain) -> list[str]:
        def view(request: Any) -> Any:
            request.session.update(session)
            return http.HttpResponse()

        response = middleware(view)(http.HttpRequest())
        return [cookie.OutputString() for cookie in response.cookies.values()]

    return note


def start_starlette() -> Emit:
    """Starlette's SessionMiddleware around a bare ASGI application."""
    middleware = import_module("starlette.middleware.sessions").SessionMiddleware
    response = import_module("starlette.responses").Response()

    def note(session: Plain) -> list[str]:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope["session"].update(session)
            await response(scope, receive, send)

        return _asgi_set_cookies(middleware(app, secrets.token_hex()))

    return note


def start_litestar() -> Emit:
    """A Litestar application with the client-side session backend."""
    litestar = import_module("litestar")
    config = import_module("litestar.middleware.session.client_side").CookieBackendConfig
    filling: Plain = {}

    def fill(request: Any) -> None:
        request.set_session(dict(filling))

    # Litestar reads the annotations, and these can't be written down without importing it.
    fill.__annotations__ = {"request": litestar.Request, "return": None}
    handler = litestar.get("/", sync_to_thread=False)(fill)
    session_middleware = config(secret=secrets.token_bytes(32)).middleware
    # Without logging, or it configures that of this whole process.
    app = litestar.Litestar([handler], middleware=[session_middleware], logging_config=None)

    def note(session: Plain) -> list[str]:
        filling.clear()
        filling.update(session)
        return _asgi_set_cookies(app)

    return note


def start_aiohttp_fernet() -> Emit:
    fernet = import_module("cryptography.fernet").Fernet
    storage = import_module("aiohttp_session.cookie_storage").EncryptedCookieStorage
    return _start_aiohttp(storage(fernet(fernet.generate_key())))


def start_aiohttp_nacl() -> Emit:
    storage = import_module("aiohttp_session.nacl_storage").NaClCookieStorage
    return _start_aiohttp(storage(secrets.token_bytes(32)))


def start_joserfc() -> Emit:
    """A JWT in a JWE; the library has no cookie, so the cookie has the usual name."""
    jwt, key = import_module("joserfc.jwt"), import_module("joserfc.jwk").OctKey
    registry = import_module("joserfc.jwe").JWERegistry()
    secret, header = key.generate_key(256), {"alg": "dir", "enc": "A256GCM"}

    def note(session: Plain) -> list[str]:
        return [f"session={jwt.encode(header, session, secret, registry=registry)}"]

    return note


def start_beaker() -> Emit:
    """Beaker's middleware around an application that fills the session."""
    middleware = import_module("beaker.middleware").SessionMiddleware
    failure = import_module("beaker.exceptions").BeakerException
    options = beaker_options()

    def note(session: Plain) -> list[str]:
        lines: list[str] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> None:
            lines.extend(value for name, value in headers if name.lower() == "set-cookie")

        def app(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
            environ["beaker.session"].update(session)
            environ["beaker.session"].save()
            start("200 OK", [])
            return []

        try:
            middleware(app, options)({}, start_response)
        except failure:
            return []  # it refuses cookies of more than 4064 bytes
        return lines

    return note


def start_pyramid_nacl() -> Emit:
    """The session of a Pyramid request, and its response's callback."""
    factory = pyramid_nacl_factory()
    request_class = import_module("pyramid.request").Request
    response_class = import_module("pyramid.response").Response

    def note(session: Plain) -> list[str]:
        request, response = request_class({}), response_class()
        factory(request).update(session)
        try:
            request._process_response_callbacks(response)
        except ValueError:
            return []  # it refuses cookies of more than 4064 bytes
        return list(response.headers.getall("Set-Cookie"))

    return note


def start_iron_session() -> Emit:
    return node_peers.start_fill("iron-session")


def start_auth_js() -> Emit:
    return node_peers.start_fill("@auth/core")


def start_fernet_json() -> Emit:
    """The recipe that applications write by hand; compact JSON, in its favour."""
    module = import_module("cryptography.fernet")
    box = module.Fernet(module.Fernet.generate_key())

    def note(session: Plain) -> list[str]:
        text = json.dumps(session, separators=(",", ":"))
        return [f"session={box.encrypt(text.encode()).decode()}"]

    return note


PEERS = (
    Peer(
        "Flask",
        ("flask", "itsdangerous"),
        "signed and compressed, not encrypted; one cookie, warns above 4093 bytes",
        start_flask,
    ),
    Peer(
        "Django signed_cookies",
        ("django",),
        "signed and compressed, not encrypted; one cookie of any size",
        start_django,
    ),
    Peer(
        "Starlette",
        ("starlette", "itsdangerous"),
        "signed, not encrypted; one cookie of any size",
        start_starlette,
    ),
    Peer(
        "Litestar",
        ("litestar", "cryptography"),
        "encrypted (AES-GCM), chunked; more than 10 chunks can't be read back",
        start_litestar,
    ),
    Peer(
        "aiohttp-session Fernet",
        ("aiohttp-session", "aiohttp", "cryptography"),
        "encrypted (AES-CBC, HMAC); one cookie of any size",
        start_aiohttp_fernet,
    ),
    Peer(
        "aiohttp-session NaCl",
        ("aiohttp-session", "aiohttp", "pynacl"),
        "encrypted (XSalsa20-Poly1305); one cookie of any size",
        start_aiohttp_nacl,
    ),
    Peer(
        "Beaker",
        ("beaker", "cryptography"),
        "compressed, encrypted (AES-GCM), signed (HMAC-SHA1); one cookie, refuses over 4064 bytes",
        start_beaker,
    ),
    Peer(
        "pyramid_nacl_session",
        ("pyramid-nacl-session", "pyramid", "pynacl"),
        "encrypted (XSalsa20-Poly1305), with JSON instead of pickle; one cookie, refuses more than"
        " 4064 bytes",
        start_pyramid_nacl,
    ),
    Peer(
        "iron-session",
        (),
        "in Node; encrypted (AES-CBC, HMAC); one cookie, refuses more than 4096 bytes",
        start_iron_session,
        "iron-session",
    ),
    Peer(
        "Auth.js",
        (),
        "in Node; encrypted (dir, A256CBC-HS512, by jose), chunked",
        start_auth_js,
        "@auth/core",
    ),
    Peer(
        "joserfc JWE",
        ("joserfc", "cryptography"),
        "encrypted (dir, A256GCM); a token, no session: no cookie, no chunks",
        start_joserfc,
    ),
    Peer(
        "Fernet + JSON",
        ("cryptography",),
        "encrypted (AES-CBC, HMAC); a recipe, no session: no cookie, no chunks",
        start_fernet_json,
    ),
)


def _start_aiohttp(storage: Any) -> Emit:
    """The middleware of aiohttp-session around a handler, without a server."""
    web, session_module = import_module("aiohttp.web"), import_module("aiohttp_session")
    make_request = import_module("aiohttp.test_utils").make_mocked_request
    middleware = session_module.session_middleware(storage)

    async def respond(session: Plain) -> Any:
        async def handler(request: Any) -> Any:
            (await session_module.get_session(request)).update(session)
            return web.Response()

        return await middleware(make_request("GET", "/"), handler)

    def note(session: Plain) -> list[str]:
        response = asyncio.run(respond(session))
        return [cookie.OutputString() for cookie in response.cookies.values()]

    return note


def _asgi_set_cookies(app: Callable[..., Awaitable[None]]) -> list[str]:
    """The Set-Cookie lines with which an ASGI application answers `GET /`."""
    headers: list[tuple[bytes, bytes]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            if message["status"] != 200:
                raise RuntimeError(f"the application answered {message['status']}")
            headers.extend(message["headers"])

    asyncio.run(_run(app(_asgi_scope(), receive, send)))
    return [value.decode("latin-1") for name, value in headers if name.lower() == b"set-cookie"]


async def _run(answer: Awaitable[None]) -> None:
    await answer


def _asgi_scope() -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"app.example.edu")],
        "client": ("192.0.2.1", 50000),
        "server": ("192.0.2.2", 443),
    }

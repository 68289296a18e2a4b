"""One page behind each product's session: it leaves the session alone, reads it, or changes it.

Knows WSGI applications of every product, and the same framework without a session. Does not know
how requests are counted or timed. Frameworks are imported when they are asked for, and by name, so
that neither this module nor a type checker needs any of them installed.

Each framework is set up as its documentation recommends, with nothing in it but this page.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from typing import Any

from benchmarks.cookie_pairs import pairs
from benchmarks.cpu_rounds import BEFORE, Turn, looped
from benchmarks.ours import STORED
from benchmarks.peer_settings import beaker_options, configured_django
from benchmarks.revisit_ours import SEEN, STOPPED
from benchmarks.workloads import ENTITY_IDS, Workload, read_entity_ids
from sealedstate import Key, Settings
from sealedstate_wsgi import ENVIRON_KEY, SealedSessionMiddleware

UNTOUCHED, READ, MODIFIED = KINDS = ("untouched", "read", "modified")
FILL = "fill"
BODY = b"ok"
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "2")]

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
Page = Callable[[Any], None]
"""What a page does to the mapping that is its session."""


@dataclass(frozen=True, slots=True)
class Pages:
    """`without`: the framework with no session at all. `by_kind`: with one. `cookie`: the Cookie
    header of a browser that has one."""

    without: Application
    by_kind: Mapping[str, Application]
    cookie: str


@dataclass(frozen=True, slots=True)
class Product:
    """A product, and how to start its pages."""

    row: str
    note: str
    distributions: tuple[str, ...]
    start: Callable[[Workload], Pages]


def no_op(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The least that a WSGI application can do."""
    start_response("200 OK", HEADERS[:])
    return [BODY]


def make_environ(cookie: str = "") -> Environ:
    """What a server tells an application of `GET /` (PEP 3333), headers of a browser included."""
    environ: Environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "RAW_URI": "/",
        "SERVER_NAME": "app.example.edu",
        "SERVER_PORT": "443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "bench",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "50000",
        "HTTP_HOST": "app.example.edu",
        "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "HTTP_ACCEPT": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "HTTP_ACCEPT_LANGUAGE": "en-US,en;q=0.5",
        "HTTP_ACCEPT_ENCODING": "gzip, deflate, br, zstd",
        "HTTP_CONNECTION": "keep-alive",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": _Nothing(),
        "wsgi.errors": None,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    return environ | ({"HTTP_COOKIE": cookie} if cookie else {})


def set_cookies(application: Application, cookie: str = "") -> list[str]:
    """The Set-Cookie lines with which an application answers."""
    lines: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> Any:
        if not status.startswith("200"):
            raise RuntimeError(f"the application answered {status}")
        lines.extend(value for name, value in headers if name.lower() == "set-cookie")

    body = application(make_environ(cookie), start_response)
    if b"".join(body) != BODY:
        raise RuntimeError("the application gave another page")
    close = getattr(body, "close", None)
    if close is not None:
        close()
    return lines


def wsgi_turn(application: Application, cookie: str) -> Turn:
    """Requests as a server makes them: each has an environ, and its body is iterated and closed."""
    template = make_environ(cookie)

    def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> Any:
        return None

    def step(_: int) -> object:
        body = application(template.copy(), start_response)
        sent = b""
        for piece in body:
            sent = piece
        close: Callable[[], object] | None = getattr(body, "close", None)
        if close is not None:
            close()
        return sent

    return looped(step)


# --- the products ---------------------------------------------------------------------------------


def start_ours(
    load: Workload, page_of: tuple[Page, Page, Page] | None = None, **settings: Any
) -> Pages:
    """Our middleware around the application that does nothing. Login records, as on a portal.

    `page_of`: what fills, reads and changes something else than the subject and a small part.
    """
    keys = [Key.generate(os.urandom).export()]
    chosen: dict[str, Any] = {"keys": keys, "clock": STOPPED, **settings}
    given = Settings(**chosen)

    def fill(session: Any) -> None:
        STORED.fill(session, load, read_entity_ids(ENTITY_IDS))
        if page_of is not None:
            page_of[0](session)

    def read(session: Any) -> None:
        _ = session.subject if load.subject is not None else session["user_id"]

    def made(page: Page) -> Application:
        def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
            page(environ[ENVIRON_KEY])
            start_response("200 OK", HEADERS[:])
            return [BODY]

        return SealedSessionMiddleware(application, given)

    untouched = SealedSessionMiddleware(no_op, given)
    reads, changes = (read, _changing(read)) if page_of is None else page_of[1:]
    return make_pages(no_op, made, untouched, fill, reads, changes)


def start_flask(load: Workload) -> Pages:
    """Flask itself; without a secret key it has no session."""
    flask = import_module("flask")

    def made(page: Page | None, secret: str | None) -> Application:
        app = flask.Flask("bench")
        app.secret_key = secret

        def view() -> Any:
            if page is not None:
                page(flask.session)
            return flask.Response(BODY, content_type="text/plain")

        app.add_url_rule("/", "view", view)
        application: Application = app.wsgi_app
        return application

    secret = secrets.token_hex()
    without, untouched = made(None, None), made(None, secret)
    return _plain_pages(load, without, lambda page: made(page, secret), untouched)


def start_flask_on_werkzeug(load: Workload) -> Pages:
    """Flask's session interface around Werkzeug's request and response, and nothing else."""
    flask, wrappers = import_module("flask"), import_module("werkzeug.wrappers")
    app = flask.Flask("bench")
    app.secret_key = secrets.token_hex()
    interface = app.session_interface

    def made(page: Page) -> Application:
        def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
            request = wrappers.Request(environ)
            session = interface.open_session(app, request)
            page(session)
            response = wrappers.Response(BODY, content_type="text/plain")
            interface.save_session(app, session, response)
            answer: Iterable[bytes] = response(environ, start_response)
            return answer

        return application

    def without(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        wrappers.Request(environ)
        response = wrappers.Response(BODY, content_type="text/plain")
        answer: Iterable[bytes] = response(environ, start_response)
        return answer

    return _plain_pages(load, without, made, made(lambda _: None))


def start_django(load: Workload) -> Pages:
    """Django's handler with SessionMiddleware over signed_cookies, and with no middleware."""
    return _plain_pages(load, *django_pages(configured_django()))


def django_pages(
    settings: Any, middleware: str = "django.contrib.sessions.middleware.SessionMiddleware"
) -> tuple[Application, Callable[[Page], Application], Application]:
    """Without a session, with one that a page uses, and with one that no page looks at."""
    http, urls = import_module("django.http"), import_module("django.urls")
    handlers = import_module("django.core.handlers.wsgi")

    def made(page: Page | None, with_session: bool = True) -> Application:
        def view(request: Any) -> Any:
            if page is not None:
                page(request.session)
            return http.HttpResponse(BODY, content_type="text/plain")

        settings.MIDDLEWARE = [middleware] if with_session else []
        handler = handlers.WSGIHandler()
        patterns = (urls.path("", view),)

        def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
            settings.ROOT_URLCONF = patterns
            answer: Iterable[bytes] = handler(environ, start_response)
            return answer

        return application

    return made(None, False), made, made(None)


def start_beaker(load: Workload) -> Pages:
    """Beaker's middleware with an encrypted cookie session, around the application that does
    nothing."""
    middleware = import_module("beaker.middleware").SessionMiddleware
    options = beaker_options()

    def made(page: Page) -> Application:
        def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
            page(environ["beaker.session"])
            start_response("200 OK", HEADERS[:])
            return [BODY]

        started: Application = middleware(application, options)
        return started

    untouched = middleware(no_op, options)
    return _plain_pages(load, no_op, made, untouched, lambda session: session.save())


PRODUCTS = (
    Product(
        "sealedstate",
        "encrypted; SealedSessionMiddleware around the no-op application, default settings",
        ("cbor2", "pynacl"),
        start_ours,
    ),
    Product(
        "Flask session on Werkzeug",
        "signed and compressed, not encrypted; SecureCookieSessionInterface alone on Werkzeug's"
        " Request and Response: Flask's session in its fastest form",
        ("flask", "werkzeug", "itsdangerous"),
        start_flask_on_werkzeug,
    ),
    Product(
        "Flask",
        "the same in a Flask application of one route; without session: no secret key",
        ("flask", "werkzeug", "itsdangerous"),
        start_flask,
    ),
    Product(
        "Django signed_cookies",
        "signed and compressed, not encrypted; WSGIHandler of one route with SessionMiddleware;"
        " without session: no middleware",
        ("django",),
        start_django,
    ),
    Product(
        "Beaker",
        "compressed, encrypted (AES-GCM) and signed (HMAC-SHA1), JSON; its middleware around the"
        " no-op application",
        ("beaker", "cryptography"),
        start_beaker,
    ),
)


# --- what pages do --------------------------------------------------------------------------------


def make_pages(
    without: Application,
    made: Callable[[Page], Application],
    untouched: Application,
    fill: Page,
    read: Page,
    change: Page,
) -> Pages:
    """The pages of a product, tried once: a changed session is written, and only that."""

    def fill_all(session: Any) -> None:
        fill(session)
        change(session)

    lines = pairs(set_cookies(made(fill_all)))
    cookie = "; ".join(["theme=dark", *lines, "consent=yes.1790000000"])
    pages = Pages(without, {UNTOUCHED: untouched, READ: made(read), MODIFIED: made(change)}, cookie)
    set_cookies(pages.by_kind[READ], cookie)
    set_cookies(pages.by_kind[MODIFIED], cookie)
    if not lines or set_cookies(untouched, cookie):
        raise RuntimeError("a session that nobody looks at is written")
    return pages


def _plain_pages(
    load: Workload,
    without: Application,
    made: Callable[[Page], Application],
    untouched: Application,
    save: Page = lambda session: None,
) -> Pages:
    """The session of a peer: a plain dict. `save`: what a page has to say that changes it."""
    pages = make_pages(without, made, untouched, *plain_uses(load, save))
    if not set_cookies(pages.by_kind[MODIFIED], pages.cookie):
        raise RuntimeError("a changed session is not written")
    return pages


def plain_uses(load: Workload, save: Page = lambda session: None) -> tuple[Page, Page, Page]:
    """What fills, reads and changes a session that is a plain dict."""
    plain = load.plain()
    key = "user" if load.subject is not None else "user_id"

    def read(session: Any) -> None:
        _ = session[key]

    def fill(session: Any) -> None:
        session.update({**plain, SEEN: BEFORE - 1})

    return fill, read, _changing(read, save)


def _changing(read: Page, save: Page = lambda session: None) -> Page:
    """Reads, and changes a small part."""
    numbers = _numbers()

    def change(session: Any) -> None:
        read(session)
        session[SEEN] = next(numbers)
        save(session)

    return change


def _numbers() -> Iterator[int]:
    """All of three digits, and each another than the one before."""
    return (300 + number % 600 for number in count())


class _Nothing:
    """The body of a request that has none."""

    def read(self, size: int = -1) -> bytes:
        return b""

    def readline(self, size: int = -1) -> bytes:
        return b""

"""The WSGI middleware in process: every kind of body, every moment of a write, PEP 3333's edges.

Nearly all tests run between two of wsgiref's validators, one on each side of the middleware.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest

from sealedstate import (
    Key,
    Keyring,
    LateRead,
    LateWrite,
    Session,
    SessionTooLarge,
    Settings,
    StorageError,
)
from sealedstate._wire.encoding import from_text, to_text
from sealedstate._wire.record import Place
from sealedstate._wire.token import TokenContext, seal
from sealedstate.key_sources import StaticKeys
from sealedstate.storage import MemoryStorage, Storage
from sealedstate.testing import ScriptedStorage
from sealedstate_wsgi import SealedSessionMiddleware
from tests.support.client import Answer, Headers, ask, attempt, cookie_header, environ_of
from tests.support.jar import Clock, places_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

KEY = Key.generate(os.urandom)
START = 1_800_000_000
PLAIN = [("Content-Type", "text/plain")]
SECRET_VALUE = "canary-9d1f"


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def settings(clock: Clock) -> Settings:
    return in_memory(clock, MemoryStorage(clock))


def in_memory(clock: Clock, store: Any) -> Settings:
    """Settings with a store that need not remember a logout for long."""
    return Settings(
        keys=[KEY.export()], storage=store, accept_weak_store_for=["revocation"], clock=clock
    )


def session_of(environ: WSGIEnvironment) -> Session:
    session = environ["sealedstate.session"]
    assert isinstance(session, Session)
    return session


def checked(app: WSGIApplication, settings: Settings) -> WSGIApplication:
    """`app` behind the middleware, with a validator on each side of it."""
    return validator(SealedSessionMiddleware(validator(app), settings))


def half_checked(app: WSGIApplication, settings: Settings) -> WSGIApplication:
    """The same, but the middleware sees the body that `app` itself returned."""
    return validator(SealedSessionMiddleware(app, settings))


both_ways = pytest.mark.parametrize("around", [checked, half_checked])
Around = Callable[["WSGIApplication", Settings], "WSGIApplication"]


def cookies_with(settings: Settings, subject: str | None = None, **parts: object) -> str:
    """The Cookie header of a browser that holds a session with these parts."""
    keeper = SealedSessionMiddleware(nothing, settings).keeper
    session = keeper.session()
    session.subject = subject
    session.update(parts)
    return cookie_header(keeper.save(session))


def opened(settings: Settings, cookie: str) -> Session:
    """The session that a Cookie header holds."""
    return SealedSessionMiddleware(nothing, settings).keeper.session(cookie)


def nothing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", list(PLAIN))
    return [b"nothing"]


def touching(
    touch: Callable[[Session], object],
    status: str = "200 OK",
    headers: Headers = PLAIN,
    body: Iterable[bytes] = (b"page",),
) -> WSGIApplication:
    """An application that does `touch` to the session and answers."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        touch(session_of(environ))
        start_response(status, list(headers))
        return list(body)

    return app


# --- every kind of body -------------------------------------------------------------------------


def fill(environ: WSGIEnvironment) -> None:
    session = session_of(environ)
    session.subject = "alice"
    session["cart"] = ["tea"]


def as_list(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    fill(environ)
    start_response("200 OK", list(PLAIN))
    return [b"one", b"two"]


def as_tuple(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return tuple(as_list(environ, start_response))


def as_iterator(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return iter(as_list(environ, start_response))


class Pieces(list[bytes]):
    """A list that is no plain list."""


def as_subclass(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return Pieces(as_list(environ, start_response))


def as_late_starter(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    fill(environ)
    start_response("200 OK", list(PLAIN))
    yield b"one"
    yield b"two"


def as_late_filler(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", list(PLAIN))

    def pieces() -> Iterator[bytes]:
        fill(environ)
        yield b"one"
        yield b"two"

    return pieces()


def as_empty_first(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    fill(environ)
    start_response("200 OK", list(PLAIN))
    yield b""
    yield b""
    yield b"one"
    yield b"two"


def as_writer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    fill(environ)
    write = start_response("200 OK", list(PLAIN))
    write(b"one")
    write(b"two")
    return []


def as_writer_and_body(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    fill(environ)
    start_response("200 OK", list(PLAIN))(b"one")
    return iter([b"two"])


def as_empty_list(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    as_list(environ, start_response)
    return []


def as_empty_generator(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    as_list(environ, start_response)
    yield from ()


def as_filler_without_body(
    environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    start_response("200 OK", list(PLAIN))

    def pieces() -> Iterator[bytes]:
        fill(environ)
        yield from ()

    return pieces()


FULL_BODIES = [
    as_list,
    as_tuple,
    as_iterator,
    as_subclass,
    as_late_starter,
    as_late_filler,
    as_empty_first,
    as_writer,
    as_writer_and_body,
]
EMPTY_BODIES = [as_empty_list, as_empty_generator, as_filler_without_body]


@both_ways
@pytest.mark.parametrize("app", [*FULL_BODIES, *EMPTY_BODIES])
def test_every_kind_of_body_carries_the_session(
    app: WSGIApplication, around: Around, settings: Settings
) -> None:
    answer = ask(around(app, settings))
    assert answer.status == 200
    assert answer.body == (b"" if app in EMPTY_BODIES else b"onetwo")
    assert len(answer.set_cookies) == 1
    session = opened(settings, cookie_header(answer.set_cookies))
    assert session.subject == "alice"
    assert dict(session) == {"cart": ["tea"]}


@pytest.mark.parametrize("app", [*FULL_BODIES, *EMPTY_BODIES])
def test_session_is_saved_once_for_any_body(app: WSGIApplication, settings: Settings) -> None:
    middleware = SealedSessionMiddleware(app, settings)
    ask(middleware)
    assert middleware.keeper.counts["saved"] == 1


@pytest.mark.parametrize("app", [as_list, as_tuple])
def test_list_or_tuple_reaches_the_server_unchanged(
    app: WSGIApplication, settings: Settings
) -> None:
    body = SealedSessionMiddleware(app, settings)(environ_of(), lambda *_: lambda _: None)
    assert type(body) in (list, tuple)  # so that a server can count its length


def test_stream_is_sent_piece_by_piece(settings: Settings) -> None:
    made: list[str] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        fill(environ)
        start_response("200 OK", list(PLAIN))
        for number in range(3):
            made.append(f"piece {number}")
            yield b"%d" % number

    answer = attempt(checked(app, settings), stop_after=2)
    assert answer.body == b"01"
    assert made == ["piece 0", "piece 1"]
    assert len(answer.set_cookies) == 1


@both_ways
def test_head_saves_what_get_saves(around: Around, settings: Settings) -> None:
    answer = ask(around(as_empty_list, settings), method="HEAD")
    assert answer.body == b""
    assert opened(settings, cookie_header(answer.set_cookies)).subject == "alice"


@both_ways
@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_answer_without_content_carries_the_session(
    status: str, around: Around, settings: Settings
) -> None:
    app = touching(lambda session: session.update(seen=True), status, [], ())
    answer = ask(around(app, settings))
    assert f"{answer.status} " == status[:4]
    assert dict(opened(settings, cookie_header(answer.set_cookies))) == {"seen": True}


@both_ways
@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Service Unavailable"])
def test_error_page_of_the_application_saves_the_session(
    status: str, around: Around, settings: Settings
) -> None:
    app = touching(lambda session: session.update(tries=3), status)
    answer = ask(around(app, settings))
    assert f"{answer.status} " == status[:4]
    assert dict(opened(settings, cookie_header(answer.set_cookies))) == {"tries": 3}


# --- the moment of a write ----------------------------------------------------------------------


def test_write_between_start_response_and_the_first_piece_is_saved(settings: Settings) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        session_of(environ)["cart"] = ["tea"]
        return [b"page"]

    answer = ask(half_checked(app, settings))
    assert dict(opened(settings, cookie_header(answer.set_cookies))) == {"cart": ["tea"]}


def writing_late(change: Callable[[Session], object], early: str) -> WSGIApplication:
    """Changes the session after the first piece. `early`: what sent the headers."""

    def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = session_of(environ)
        assert session["cart"]
        write = start_response("200 OK", list(PLAIN))
        if early == "write":
            write(b"first")
        else:
            yield b"" if early == "empty piece" else b"first"
        change(session)
        yield b"second"

    return stream


LATE_WRITES: dict[str, Callable[[Session], object]] = {
    "assigning": lambda session: session.__setitem__("cart", 1),
    "deleting": lambda session: session.__delitem__("cart"),
    "clearing": lambda session: session.clear(),
    "updating": lambda session: session.update(cart=1),
    "popping": lambda session: session.pop("cart"),
    "signing in": lambda session: setattr(session, "subject", "mallory"),
    "regenerating": lambda session: session.regenerate(),
    "logging out": lambda session: session.invalidate(),
}


@pytest.mark.parametrize("early", ["piece", "empty piece", "write"])
@pytest.mark.parametrize("change", LATE_WRITES.values(), ids=LATE_WRITES)
def test_write_after_the_headers_raises(
    change: Callable[[Session], object], early: str, settings: Settings
) -> None:
    cookie = cookies_with(settings, "alice", cart=["tea"])
    answer = attempt(checked(writing_late(change, early), settings), cookie=cookie)
    assert isinstance(answer.error, LateWrite)
    assert answer.body == (b"" if early == "empty piece" else b"first")
    assert opened(settings, cookie).subject == "alice"


def test_write_to_an_untouched_session_after_the_headers_raises(
    settings: Settings,
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"first"
        session_of(environ)["cart"] = ["tea"]

    assert isinstance(attempt(checked(app, settings)).error, LateWrite)


@pytest.mark.parametrize("early", ["piece", "empty piece", "write"])
def test_nested_change_after_the_headers_is_logged_by_name_without_its_value(
    early: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def change(session: Session) -> None:
        cart: Any = session["cart"]
        cart.append(SECRET_VALUE)

    cookie = cookies_with(settings, "alice", cart=["tea"])
    ask(checked(writing_late(change, early), settings), cookie=cookie)
    assert_logged_late(caplog, "cart")


def assert_logged_late(caplog: pytest.LogCaptureFixture, name: str) -> None:
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert name in errors[0]
    assert SECRET_VALUE not in caplog.text


@both_ways
def test_nested_change_after_write_is_logged_for_a_list(
    around: Around, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        cart: Any = session_of(environ)["cart"]
        start_response("200 OK", list(PLAIN))(b"page")
        cart.append(SECRET_VALUE)
        return []

    ask(around(app, settings), cookie=cookies_with(settings, cart=["tea"]))
    assert_logged_late(caplog, "cart")


def test_late_nested_change_to_an_unsupported_value_is_logged(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def change(session: Session) -> None:
        cart: Any = session["cart"]
        cart.append(object())

    cookie = cookies_with(settings, "alice", cart=["tea"])
    assert ask(checked(writing_late(change, "piece"), settings), cookie=cookie).body
    assert_logged_late(caplog, "cart")


def test_nested_change_before_the_headers_is_saved_and_not_logged(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def change(session: Session) -> None:
        cart: Any = session["cart"]
        cart.append("milk")

    answer = ask(checked(touching(change), settings), cookie=cookies_with(settings, cart=["tea"]))
    assert dict(opened(settings, cookie_header(answer.set_cookies))) == {"cart": ["tea", "milk"]}
    assert not [record for record in caplog.records if record.name == "sealedstate.wsgi"]


def test_touched_session_can_be_read_while_the_body_streams(
    settings: Settings,
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = session_of(environ)
        yield_subject = str(session.subject).encode()
        start_response("200 OK", list(PLAIN))
        yield yield_subject
        yield repr(session["cart"]).encode()

    answer = ask(checked(app, settings), cookie=cookies_with(settings, "alice", cart=["tea"]))
    assert answer.body == b"alice['tea']"
    assert answer.all("Vary") == ["Cookie"]


LATE_LOOKS: dict[str, Callable[[Session], object]] = {
    "in": lambda session: "cart" in session,
    "len": len,
    "get": lambda session: session.get("cart"),
    "getitem": lambda session: session["cart"],
    "subject": lambda session: session.subject,
    "id": lambda session: session.id,
    "is_new": lambda session: session.is_new,
}


@pytest.mark.parametrize("early", ["piece", "empty piece", "write"])
@pytest.mark.parametrize("look", LATE_LOOKS.values(), ids=LATE_LOOKS)
def test_first_look_after_the_headers_raises(
    look: Callable[[Session], object], early: str, settings: Settings
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", list(PLAIN))
        if early == "write":
            write(b"first")
        else:
            yield b"" if early == "empty piece" else b"first"
        yield repr(look(session_of(environ))).encode()

    answer = attempt(checked(app, settings), cookie=cookies_with(settings, "alice", cart=["tea"]))
    assert isinstance(answer.error, LateRead)
    assert answer.body == (b"" if early == "empty piece" else b"first")
    assert answer.all("Vary") == []


# --- start_response called twice ----------------------------------------------------------------


def failing(before: bytes | None, after: Callable[[WSGIEnvironment], object]) -> WSGIApplication:
    """Starts a good page, sends `before` if any, fails, and starts an error page instead."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session_of(environ)["tries"] = 1
        start_response("200 OK", [*PLAIN, ("X-Page", "good"), ("Set-Cookie", "theme=dark")])
        if before is not None:
            yield before
        try:
            raise RuntimeError("the page failed")
        except RuntimeError:
            after(environ)
            start_response("500 Oops", [*PLAIN, ("X-Page", "error")], sys.exc_info())
        yield b"error page"

    return app


@pytest.mark.parametrize("before", [None, b""])
def test_second_start_response_wins_before_the_first_byte(
    before: bytes | None, settings: Settings
) -> None:
    middleware = SealedSessionMiddleware(validator(failing(before, lambda _: None)), settings)
    answer = ask(validator(middleware))
    assert (answer.status, answer.all("X-Page"), answer.body) == (500, ["error"], b"error page")
    assert middleware.keeper.counts["saved"] == 1
    assert len(answer.set_cookies) == 1
    assert answer.all("Vary") == ["Cookie"]
    assert answer.all("Cache-Control") == ["no-store, private"]
    assert dict(opened(settings, cookie_header(answer.set_cookies))) == {"tries": 1}


@pytest.mark.parametrize("before", [None, b""])
def test_error_page_keeps_the_cookie_of_a_new_session_id(
    before: bytes | None, settings: Settings
) -> None:
    """The old id is revoked by then: without the new cookie, the user would be signed out."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session_of(environ).regenerate()
        return failing(before, lambda _: None)(environ, start_response)

    cookie = cookies_with(settings, "alice")
    answer = ask(checked(app, settings), cookie=cookie)
    assert opened(settings, cookie).subject is None
    assert opened(settings, cookie_header(answer.set_cookies)).subject == "alice"


def test_write_of_the_error_page_is_saved(settings: Settings) -> None:
    app = failing(None, lambda environ: session_of(environ).update(failed=True))
    answer = ask(checked(app, settings))
    session = opened(settings, cookie_header(answer.set_cookies))
    assert dict(session) == {"tries": 1, "failed": True}


def test_exception_after_the_first_byte_is_raised_again(settings: Settings) -> None:
    answer = attempt(checked(failing(b"good", lambda _: None), settings))
    assert isinstance(answer.error, RuntimeError)
    assert (answer.status, answer.body) == (200, b"good")
    assert len(answer.set_cookies) == 2  # the application's own, and the session


def test_error_page_of_an_untouched_session_gets_no_header(settings: Settings) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b""
        try:
            raise RuntimeError
        except RuntimeError:
            start_response("500 Oops", list(PLAIN), sys.exc_info())
        yield b"error page"

    assert ask(checked(app, settings)).headers == PLAIN


@both_ways
def test_second_start_response_without_exc_info_is_an_error(
    around: Around, settings: Settings
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        fill(environ)
        start_response("200 OK", list(PLAIN))
        start_response("302 Found", list(PLAIN))
        return [b"page"]

    answer = attempt(around(app, settings))
    assert isinstance(answer.error, AssertionError)
    assert "start_response was called twice" in str(answer.error)
    assert answer.headers == []


def test_second_start_response_without_exc_info_after_the_headers_is_an_error(
    settings: Settings,
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"page"
        start_response("302 Found", list(PLAIN))

    error = attempt(checked(app, settings)).error
    assert isinstance(error, AssertionError)
    assert "start_response was called twice" in str(error)


def test_application_that_never_answers_gets_the_error_of_the_server(
    settings: Settings,
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        fill(environ)
        return []

    middleware = SealedSessionMiddleware(app, settings)
    assert "never called start_response" in str(attempt(middleware).error)
    assert middleware.keeper.counts["saved"] == 0


# --- exceptions ---------------------------------------------------------------------------------


class Broken(Exception):
    """What applications raise in these tests."""


def broken_at(moment: str) -> WSGIApplication:
    """Fills the session, and raises Broken at `moment`."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        fill(environ)
        if moment == "before start_response":
            raise Broken
        start_response("200 OK", list(PLAIN))
        if moment == "after start_response":
            raise Broken
        return pieces()

    def pieces() -> Iterator[bytes]:
        if moment == "before the first piece":
            raise Broken
        yield b"first"
        raise Broken

    return app


@both_ways
@pytest.mark.parametrize(
    "moment", ["before start_response", "after start_response", "before the first piece"]
)
def test_exception_before_the_headers_leaves_the_cookies_untouched(
    moment: str, around: Around, settings: Settings
) -> None:
    cookie = cookies_with(settings, "bob", cart=["coffee"])
    answer = attempt(around(broken_at(moment), settings), cookie=cookie)
    assert isinstance(answer.error, Broken)
    assert answer.headers == []
    session = opened(settings, cookie)
    assert (session.subject, dict(session)) == ("bob", {"cart": ["coffee"]})


@both_ways
def test_exception_after_the_headers_leaves_the_saved_session(
    around: Around, settings: Settings
) -> None:
    answer = attempt(around(broken_at("later"), settings))
    assert isinstance(answer.error, Broken)
    assert answer.body == b"first"
    assert opened(settings, cookie_header(answer.set_cookies)).subject == "alice"


def too_much(session: Session) -> None:
    session["library"] = b"\xff" * 5000


FAILING_SAVES: dict[type[Exception], Storage | None] = {
    SessionTooLarge: None,
    StorageError: ScriptedStorage(Clock()).fail("create"),
}


@pytest.mark.parametrize("error", FAILING_SAVES)
@pytest.mark.parametrize("kind", ["list", "generator", "write"])
def test_failing_save_reaches_the_server_before_any_header(
    kind: str, error: type[Exception], clock: Clock
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        too_much(session_of(environ))
        write = start_response("200 OK", list(PLAIN))
        if kind == "write":
            write(b"page")
        return [b"page"] if kind == "list" else iter([b"page"])

    settings = in_memory(clock, FAILING_SAVES[error])
    cookie = cookies_with(settings, "bob", cart=["coffee"])
    answer = attempt(half_checked(app, settings), cookie=cookie)
    assert isinstance(answer.error, error)
    assert (answer.status, answer.headers, answer.body) == (0, [], b"")
    session = opened(settings, cookie)
    assert (session.subject, dict(session)) == ("bob", {"cart": ["coffee"]})


def test_application_can_answer_for_a_session_that_is_too_large(clock: Clock) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = session_of(environ)
        too_much(session)
        try:
            start_response("200 OK", list(PLAIN))(b"page")
        except SessionTooLarge:
            del session["library"]
            session["full"] = True
            start_response("507 Too Much", list(PLAIN), sys.exc_info())(b"sorry")
        return []

    settings = Settings(keys=[KEY.export()], clock=clock)
    answer = ask(checked(app, settings))
    assert (answer.status, answer.body) == (507, b"sorry")
    assert dict(opened(settings, cookie_header(answer.set_cookies))) == {"full": True}


# --- close() ------------------------------------------------------------------------------------


class ClosableBody:
    """Counts its closes. `broken`: where it raises Broken, if anywhere."""

    def __init__(self, broken: str = "") -> None:
        self.closes = 0
        self._broken = broken

    def __iter__(self) -> Iterator[bytes]:
        if self._broken == "iter":
            raise Broken
        return self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        if self._broken == "first piece":
            raise Broken
        yield b"one"
        if self._broken == "second piece":
            raise Broken
        yield b"two"
        if self._broken == "end":
            raise Broken

    def close(self) -> None:
        self.closes += 1
        if self._broken == "close":
            raise Broken


def returning(body: Iterable[bytes], touch: Callable[[Session], object]) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        touch(session_of(environ))
        start_response("200 OK", list(PLAIN))
        return body

    return app


TOUCHES: dict[str, Callable[[Session], object]] = {
    "untouched": lambda session: None,
    "read": lambda session: session.get("cart"),
    "written": lambda session: session.update(cart=["tea"]),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
@pytest.mark.parametrize("stop_after", [None, 0, 1, 2])
def test_body_is_closed_once_however_much_of_it_is_read(
    stop_after: int | None, touch: Callable[[Session], object], settings: Settings
) -> None:
    body = ClosableBody()
    app = half_checked(returning(body, touch), settings)
    assert attempt(app, stop_after=stop_after).error is None
    assert body.closes == 1


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
@pytest.mark.parametrize("broken", ["iter", "first piece", "second piece", "end", "close"])
def test_body_is_closed_once_wherever_it_raises(
    broken: str, touch: Callable[[Session], object], settings: Settings
) -> None:
    body = ClosableBody(broken)
    middleware = SealedSessionMiddleware(returning(body, touch), settings)
    assert isinstance(attempt(middleware).error, Broken)
    assert body.closes == 1


def test_body_is_closed_once_when_the_session_cannot_be_saved(clock: Clock) -> None:
    body = ClosableBody()
    settings = Settings(keys=[KEY.export()], clock=clock)
    answer = attempt(SealedSessionMiddleware(returning(body, too_much), settings))
    assert isinstance(answer.error, SessionTooLarge)
    assert body.closes == 1


# --- a server's file wrapper --------------------------------------------------------------------


class FileWrapper(ClosableBody):
    """A server's file wrapper that is a class, as in gunicorn, waitress and wsgiref."""


def file_wrapper(file: object) -> ClosableBody:
    """A file wrapper that is a function, as in uWSGI."""
    return ClosableBody()


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_file_of_the_server_passes_through(
    touch: Callable[[Session], object], settings: Settings
) -> None:
    body = FileWrapper()
    started: list[Headers] = []

    def start_response(status: str, headers: Headers, exc_info: object = None, /) -> Any:
        started.append(headers)

    environ = environ_of(extras={"wsgi.file_wrapper": FileWrapper})
    middleware = SealedSessionMiddleware(returning(body, touch), settings)
    assert middleware(environ, start_response) is body
    assert body.closes == 0  # the server closes it, when it is sent
    assert len(started) == 1
    written = touch is TOUCHES["written"]
    assert len([name for name, _ in started[0] if name == "Set-Cookie"]) == written


@pytest.mark.parametrize("wrapper", [FileWrapper, file_wrapper])
def test_file_of_the_server_is_sent_whole_and_closed_once(
    wrapper: Callable[..., ClosableBody], settings: Settings
) -> None:
    sent: list[ClosableBody] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        fill(environ)
        start_response("200 OK", list(PLAIN))
        sent.append(environ["wsgi.file_wrapper"](""))
        return sent[0]

    extras = {"wsgi.file_wrapper": wrapper}
    answer = ask(half_checked(app, settings), extras=extras)
    assert answer.body == b"onetwo"
    assert sent[0].closes == 1
    assert opened(settings, cookie_header(answer.set_cookies)).subject == "alice"


def test_file_of_the_server_is_closed_when_the_session_cannot_be_saved(clock: Clock) -> None:
    body = FileWrapper()
    settings = Settings(keys=[KEY.export()], clock=clock)
    middleware = SealedSessionMiddleware(returning(body, too_much), settings)
    extras = {"wsgi.file_wrapper": FileWrapper}
    assert isinstance(attempt(middleware, extras=extras).error, SessionTooLarge)
    assert body.closes == 1


# --- lazy ---------------------------------------------------------------------------------------


UNTOUCHED: dict[str, Callable[[Session], object]] = {
    "not at all": lambda session: None,
    "repr": repr,
    "touched": lambda session: session.accessed,
}


@both_ways
@pytest.mark.parametrize("look", UNTOUCHED.values(), ids=UNTOUCHED)
def test_untouched_session_opens_nothing_and_adds_no_header(
    look: Callable[[Session], object], around: Around, settings: Settings, clock: Clock
) -> None:
    cookie = cookies_with(settings, "alice", cart=["tea"])
    strict = in_memory(
        clock,
        ScriptedStorage(clock).fail("read", "create", error=AssertionError("the store was asked")),
    )
    headers = [*PLAIN, ("Cache-Control", "public, max-age=60"), ("Vary", "Accept")]
    assert ask(around(touching(look, headers=headers), strict), cookie=cookie).headers == headers


def test_untouched_session_is_not_counted_as_opened(settings: Settings) -> None:
    middleware = SealedSessionMiddleware(nothing, settings)
    cookie = cookies_with(settings, "alice")
    before = middleware.keeper.counts
    ask(middleware, cookie=cookie)
    assert middleware.keeper.counts == before


READS: dict[str, Callable[[Session], object]] = {
    "in": lambda session: "cart" in session,
    "not in": lambda session: "flash" in session,
    "len": len,
    "iter": list,
    "get": lambda session: session.get("cart"),
    "get nothing": lambda session: session.get("flash"),
    "getitem": lambda session: session["cart"],
    "keys": lambda session: list(session.keys()),
    "items": lambda session: list(session.items()),
    "equality": lambda session: session == {},
    "bool": bool,
    "subject": lambda session: session.subject,
    "id": lambda session: session.id,
    "is_new": lambda session: session.is_new,
    "created_at": lambda session: session.created_at,
    "expires_at": lambda session: session.expires_at,
    "withheld": lambda session: session.withheld,
    "load": lambda session: session.load(),
    "the same again": lambda session: session.__setitem__("cart", ["tea"]),
    "the same subject": lambda session: setattr(session, "subject", "alice"),
}


@both_ways
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_read_adds_vary_and_nothing_else(
    read: Callable[[Session], object], around: Around, settings: Settings
) -> None:
    headers = [*PLAIN, ("Cache-Control", "max-age=60")]
    cookie = cookies_with(settings, "alice", cart=["tea"])
    answer = ask(around(touching(read, headers=headers), settings), cookie=cookie)
    assert answer.headers == [*headers, ("Vary", "Cookie")]


WRITES: dict[str, Callable[[Session], object]] = {
    "assigning": lambda session: session.__setitem__("cart", []),
    "deleting": lambda session: session.__delitem__("cart"),
    "clearing": lambda session: session.clear(),
    "updating": lambda session: session.update(flash="hello"),
    "popping": lambda session: session.pop("cart"),
    "setdefault": lambda session: session.setdefault("flash", "hello"),
    "nested": lambda session: session["cart"].append("milk"),  # type: ignore[attr-defined]
    "signing in": lambda session: setattr(session, "subject", "bob"),
    "regenerating": lambda session: session.regenerate(),
    "logging out": lambda session: session.invalidate(),
}


@both_ways
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_write_adds_vary_cache_control_and_the_cookie(
    write: Callable[[Session], object], around: Around, settings: Settings
) -> None:
    cookie = cookies_with(settings, "alice", cart=["tea"])
    answer = ask(around(touching(write), settings), cookie=cookie)
    names = [name for name, _ in answer.headers]
    assert names == ["Content-Type", "Vary", "Cache-Control", "Set-Cookie"]
    assert answer.all("Vary") == ["Cookie"]
    assert answer.all("Cache-Control") == ["no-store, private"]


def test_read_that_refreshes_the_cookie_is_not_stored_by_caches(
    settings: Settings, clock: Clock
) -> None:
    cookie = cookies_with(settings, "alice")
    clock.now += settings.lifetimes().refresh
    answer = ask(checked(touching(lambda session: session.subject), settings), cookie=cookie)
    assert len(answer.set_cookies) == 1
    assert answer.all("Cache-Control") == ["no-store, private"]


# --- headers of the application -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "merged"),
    [
        ([], ["Cookie"]),
        (["Accept-Encoding"], ["Accept-Encoding", "Cookie"]),
        (["Cookie"], ["Cookie"]),
        (["cookie"], ["cookie"]),
        (["Accept, COOKIE"], ["Accept, COOKIE"]),
        (["Accept", "Cookie"], ["Accept", "Cookie"]),
        (["*"], ["*"]),
        (["Accept, *"], ["Accept, *"]),
        (["X-Cookie"], ["X-Cookie", "Cookie"]),
        (["Cookie2, Cookies"], ["Cookie2, Cookies", "Cookie"]),
        ([""], ["", "Cookie"]),
    ],
)
@pytest.mark.parametrize("spelling", ["Vary", "vary", "VARY"])
def test_vary_names_the_cookie_once(
    given: list[str], merged: list[str], spelling: str, settings: Settings
) -> None:
    headers = [*PLAIN, *((spelling, value) for value in given)]
    answer = ask(checked(touching(len, headers=headers), settings))
    assert answer.all("Vary") == merged


@pytest.mark.parametrize(
    ("given", "merged"),
    [
        ([], "no-store, private"),
        (["public, max-age=600, no-transform"], "no-store, private, no-transform"),
        (["public", "max-age=600", "no-transform"], "no-store, private, no-transform"),
        (["PUBLIC, Max-Age=600"], "no-store, private"),
        (["s-maxage=5,immutable , stale-if-error=9"], "no-store, private"),
        (["no-store"], "no-store, private"),
        (["private"], "no-store, private"),
        (["no-cache, must-revalidate"], "no-store, private, no-cache, must-revalidate"),
        (['private="X-A, X-B", no-transform'], "no-store, private, no-transform"),
        (['no-cache="X-A, public", public'], 'no-store, private, no-cache="X-A, public"'),
        (['ext="a \\", public", public'], 'no-store, private, ext="a \\", public"'),
        (['ext="never closed, public'], 'no-store, private, ext="never closed, public'),
        ([", ,"], "no-store, private"),
    ],
)
@pytest.mark.parametrize("spelling", ["Cache-Control", "cache-control"])
def test_cache_control_forbids_storing_and_keeps_other_directives(
    given: list[str], merged: str, spelling: str, settings: Settings
) -> None:
    headers = [*PLAIN, *((spelling, value) for value in given)]
    app = touching(lambda session: session.update(seen=True), headers=headers)
    assert ask(checked(app, settings)).all("Cache-Control") == [merged]


OWN = [("Set-Cookie", "theme=dark; Path=/"), ("set-cookie", "lang=de; Path=/")]


def test_cookies_of_the_application_are_kept(settings: Settings) -> None:
    app = touching(lambda session: session.update(seen=True), headers=[*PLAIN, *OWN])
    answer = ask(checked(app, settings))
    assert answer.set_cookies[:2] == [value for _, value in OWN]
    assert len(answer.set_cookies) == 3


def response_bytes(answer: Answer) -> int:
    return sum(len(f"Set-Cookie: {line}\r\n") for line in answer.set_cookies)


OWN_LARGE = ("Set-Cookie", f"theme={'d' * 1200}; Path=/")


def test_cookies_of_the_application_count_in_the_budget(settings: Settings) -> None:
    def large(session: Session) -> None:
        session["library"] = b"\xff" * 1800

    alone = ask(checked(touching(large), settings))
    session = opened(settings, cookie_header(alone.set_cookies))
    assert places_of(session) == {"library": Place.CORE}
    answer = ask(checked(touching(large, headers=[*PLAIN, OWN_LARGE]), settings))
    assert response_bytes(answer) <= settings.budget_profile().response_bytes
    session = opened(settings, cookie_header(answer.set_cookies[1:]))
    assert places_of(session) == {"library": Place.SPILLED}
    assert session["library"] == b"\xff" * 1800


def test_cookies_of_the_application_can_leave_too_little_room_without_a_store(
    clock: Clock,
) -> None:
    def large(session: Session) -> None:
        session["library"] = b"\xff" * 1800

    settings = Settings(keys=[KEY.export()], clock=clock)
    assert ask(checked(touching(large), settings)).set_cookies
    answer = attempt(checked(touching(large, headers=[*PLAIN, OWN_LARGE]), settings))
    assert isinstance(answer.error, SessionTooLarge)


# --- refusals -----------------------------------------------------------------------------------


def page(session: Session) -> bytes:
    return f"{session.subject} {dict(session)} {session.is_new} {session.expires_at}".encode()


def page_app(write: bool) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = session_of(environ)
        body = page(session)
        if write:
            session["csrf"] = "f00d"
        start_response("200 OK", list(PLAIN))
        return [body]

    return app


def flipped(text: str, position: int) -> str:
    token = bytearray(from_text(text))
    token[position] ^= 1
    return to_text(bytes(token))


def sealed_for(purpose: str, realm: str, name: str, payload: bytes = b"\x80") -> str:
    place = TokenContext(purpose, realm, (name,))
    return to_text(seal(payload, place, KEY, START, os.urandom(32)))


class Scene:
    """One ring, one store, one clock, and every way in which a token can be bad."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.store = MemoryStorage(clock)
        self.settings = self.made()
        self.good = cookies_with(self.settings, "alice", cart=["tea"])
        self.value = self.good.partition("=")[2]

    def made(self, key: Key = KEY, **more: Any) -> Settings:
        # A constant instead of random bytes: equal answers are then equal to the byte.
        ring = {"keys": StaticKeys(Keyring((key, Key.generate(os.urandom, START + 10**6))))}
        usual = {
            "storage": self.store,
            "accept_weak_store_for": ["revocation"],
            "clock": self.clock,
        }
        return Settings(**{**ring, **usual, **more})

    def named(self, value: str) -> str:
        return f"{self.settings.cookie_family().name}={value}"

    def expired(self, seconds: int) -> str:
        moment, self.clock.now = self.clock.now, self.clock.now - seconds
        cookie = cookies_with(self.settings, "alice")
        self.clock.now = moment
        return cookie

    def revoked(self) -> str:
        cookie = cookies_with(self.settings, "alice")
        opened(self.settings, cookie).invalidate()
        return cookie

    def as_by(self, **key: Any) -> tuple[str, Settings]:
        """A good cookie, and settings whose key is the same but for `key`."""
        return self.good, self.made(Key(KEY.kid, KEY.secret, **key))


FOREIGN = Key.generate(os.urandom)
BAD: dict[str, Callable[[Scene], str]] = {
    "empty": lambda scene: scene.named(""),
    "garbage": lambda scene: scene.named("garbage"),
    "not our alphabet": lambda scene: scene.named('{"user": "admin"}'),
    "not text": lambda scene: scene.named("\xff\x00\x80" * 40),
    "over-long": lambda scene: scene.named(f"{scene.value}{'A' * 60_000}"),
    "truncated": lambda scene: scene.named(scene.value[:-4]),
    "extended": lambda scene: scene.named(f"{scene.value}AAAA"),
    "not canonical": lambda scene: scene.named(f"{scene.value}="),
    "altered tag": lambda scene: scene.named(flipped(scene.value, -1)),
    "altered ciphertext": lambda scene: scene.named(flipped(scene.value, 40)),
    "altered nonce": lambda scene: scene.named(flipped(scene.value, 10)),
    "another name": lambda scene: scene.named(sealed_for("core", "default", "other")),
    "another realm": lambda scene: scene.named(sealed_for("core", "other", "__Host-s")),
    "another purpose": lambda scene: scene.named(sealed_for("stored", "default", "__Host-s")),
    "idle too long": lambda scene: scene.expired(2 * 3600),
    "logged out": Scene.revoked,
}
WITHHELD: dict[str, Callable[[Scene], str]] = {
    "another format": lambda scene: scene.named(flipped(scene.value, 0)),
    "another format, over-long": lambda scene: scene.named("A" * 60_000),
    "an unknown key": lambda scene: cookies_with(scene.made(FOREIGN), "alice"),
    "sealed in the future": lambda scene: scene.expired(-120),
    "two sessions": lambda scene: f"{scene.good}; {cookies_with(scene.settings, 'bob')}",
    "a record of tomorrow": lambda scene: scene.named(sealed_for("core", "default", "__Host-s")),
}


def assert_same_answer(scene: Scene, settings: Settings, bad: str, write: bool) -> None:
    app = page_app(write)
    without, withheld = ask(checked(app, settings)), ask(checked(app, settings), cookie=bad)
    assert withheld.status == without.status
    assert withheld.headers == without.headers
    assert withheld.body == without.body == b"None {} True None"
    assert ask(checked(app, scene.settings), cookie=scene.good).body != without.body


@pytest.mark.parametrize("write", [False, True], ids=["read", "written"])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_refused_cookie_gets_the_answer_of_no_cookie_to_the_byte(
    bad: Callable[[Scene], str], write: bool, clock: Clock
) -> None:
    scene = Scene(clock)
    # A constant instead of random bytes: the same record is then sealed to the same cookie.
    settings = scene.made(random=lambda count: b"\x07" * count)
    assert_same_answer(scene, settings, bad(scene), write)


@pytest.mark.parametrize("bad", WITHHELD.values(), ids=WITHHELD)
def test_withheld_cookie_gets_the_page_of_no_cookie_to_the_byte(
    bad: Callable[[Scene], str], clock: Clock
) -> None:
    scene = Scene(clock)
    assert_same_answer(scene, scene.settings, bad(scene), write=False)


@pytest.mark.parametrize("bad", WITHHELD.values(), ids=WITHHELD)
def test_withheld_cookie_is_neither_deleted_nor_overwritten(
    bad: Callable[[Scene], str], clock: Clock
) -> None:
    scene = Scene(clock)
    assert ask(checked(page_app(True), scene.settings), cookie=bad(scene)).set_cookies == []


@pytest.mark.parametrize("state", ["revoked", "disabled", "expired"])
def test_key_out_of_use_gets_the_page_of_no_cookie_to_the_byte(state: str, clock: Clock) -> None:
    scene = Scene(clock)
    bad, settings = scene.as_by(**{"expires_at": START} if state == "expired" else {state: True})
    assert_same_answer(scene, settings, bad, write=False)


def test_unreachable_store_gets_the_page_of_no_cookie_and_keeps_the_cookie(
    clock: Clock,
) -> None:
    scene = Scene(clock)
    settings = scene.made(storage=ScriptedStorage(clock).fail())
    assert_same_answer(scene, settings, scene.good, write=False)
    assert ask(checked(page_app(True), settings), cookie=scene.good).set_cookies == []

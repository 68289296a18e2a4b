"""The WSGI middleware in process: every kind of body, late writes, and the edges of PEP 3333.

Nearly everything runs between two of wsgiref's validators, one on each side of the middleware.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest

from sealedstate import Key, LateRead, LateWrite, Session, SessionTooLarge, Settings, StorageError
from sealedstate._wire.encoding import from_text, to_text
from sealedstate._wire.token import TokenContext, seal
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.storage import MemoryStorage
from sealedstate.testing import ScriptedStorage
from sealedstate_wsgi import SealedSessionMiddleware
from tests.support.client import Answer, Headers, ask, attempt, cookie_header, environ_of
from tests.support.jar import Clock, places_of
from tests.support.tables import check_each

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

KEY = Key.generate(os.urandom)
START = 1_800_000_000
PLAIN = [("Content-Type", "text/plain")]
SECRET_VALUE = "canary-9d1f"
# The Set-Cookie fields of this application leave little room for ours.
OWN_LARGE = ("Set-Cookie", f"theme={'d' * 1200}; Path=/")

Use = Callable[[Session], object]


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
    """The same, but the middleware gets the body that `app` itself returned."""
    return validator(SealedSessionMiddleware(app, settings))


BOTH_WAYS = (checked, half_checked)


def cookies_with(settings: Settings, subject: str | None = None, **parts: object) -> str:
    """The Cookie header of a browser that holds a session with these parts."""
    keeper = SealedSessionMiddleware(page_of(len), settings).keeper
    session = keeper.session()
    session.subject = subject
    session.update(parts)
    return cookie_header(keeper.save(session))


def open_session(settings: Settings, cookie: str) -> Session:
    """The session of a Cookie header."""
    return SealedSessionMiddleware(page_of(len), settings).keeper.session(cookie)


def saved_session(settings: Settings, answer: Answer) -> Session:
    """The session in the cookies of an answer."""
    return open_session(settings, cookie_header(answer.set_cookies))


def page_of(
    use: Use, status: str = "200 OK", headers: Headers = PLAIN, body: Iterable[bytes] = (b"page",)
) -> WSGIApplication:
    """An application that uses the session, and then answers with a list."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        use(session_of(environ))
        start_response(status, list(headers))
        return list(body)

    return app


# --- uses of a session --------------------------------------------------------------------------

READS: dict[str, Use] = {
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
}
WRITES: dict[str, Use] = {
    "assigning": lambda session: session.__setitem__("cart", []),
    "deleting": lambda session: session.__delitem__("cart"),
    "clearing": lambda session: session.clear(),
    "updating": lambda session: session.update(flash="hello"),
    "popping": lambda session: session.pop("cart"),
    "setdefault": lambda session: session.setdefault("flash", "hello"),
    "signing in": lambda session: setattr(session, "subject", "bob"),
    "signing in again": lambda session: setattr(session, "subject", "alice"),
    "regenerating": lambda session: session.regenerate(),
    "logging out": lambda session: session.invalidate(),
}


def append(value: object) -> Use:
    """Changes a value inside the session's part."""
    return lambda session: session["cart"].append(value)  # type: ignore[attr-defined]


# --- every kind of body -------------------------------------------------------------------------


class Pieces(list[bytes]):
    """A subclass of list."""


def fill(session: Session) -> None:
    session.subject = "alice"
    session["cart"] = ["tea"]


def body_app(
    body: Callable[[], Iterable[bytes]], written: Iterable[bytes] = (), late: bool = False
) -> WSGIApplication:
    """Fills the session, `late`ly after start_response, writes pieces, and returns `body`."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not late:
            fill(session_of(environ))
        write = start_response("200 OK", list(PLAIN))
        if late:
            fill(session_of(environ))
        for piece in written:
            write(piece)
        return body()

    return app


def lazy_app(*pieces: bytes, fills_lazily: bool = False) -> WSGIApplication:
    """A generator that starts its response itself; or whose body fills the session."""

    def generate(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        fill(session_of(environ))
        start_response("200 OK", list(PLAIN))
        yield from pieces

    def start(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        return fill_and_yield(session_of(environ))

    def fill_and_yield(session: Session) -> Iterator[bytes]:
        fill(session)
        yield from pieces

    return start if fills_lazily else generate


FULL: dict[str, WSGIApplication] = {
    "list": body_app(lambda: [b"one", b"two"]),
    "tuple": body_app(lambda: (b"one", b"two")),
    "iterator": body_app(lambda: iter([b"one", b"two"])),
    "subclass of list": body_app(lambda: Pieces([b"one", b"two"])),
    "written after start_response": body_app(lambda: [b"one", b"two"], late=True),
    "generator that starts": lazy_app(b"one", b"two"),
    "generator that fills": lazy_app(b"one", b"two", fills_lazily=True),
    "empty pieces first": lazy_app(b"", b"", b"one", b"two"),
    "write": body_app(list, [b"one", b"two"]),
    "write and body": body_app(lambda: iter([b"two"]), [b"one"]),
}
EMPTY: dict[str, WSGIApplication] = {
    "list": body_app(list),
    "generator": lazy_app(),
    "generator that fills": lazy_app(fills_lazily=True),
}


def test_every_kind_of_body_carries_the_session_and_saves_it_once(settings: Settings) -> None:
    def check(app: WSGIApplication) -> None:
        for around in BOTH_WAYS:
            answer = ask(around(app, settings))
            assert (answer.status, answer.body) == (200, b"onetwo" if app in FULL.values() else b"")
            assert len(answer.set_cookies) == 1
            session = saved_session(settings, answer)
            assert (session.subject, dict(session)) == ("alice", {"cart": ["tea"]})
        middleware = SealedSessionMiddleware(app, settings)
        ask(middleware)
        assert middleware.keeper.counts["saved"] == 1

    check_each(FULL, check)
    check_each(EMPTY, check)


def test_complete_body_reaches_the_server_as_it_is(settings: Settings) -> None:
    for name, kind in (("list", list), ("tuple", tuple)):
        middleware = SealedSessionMiddleware(FULL[name], settings)
        body = middleware(environ_of(), lambda *_: lambda _: None)
        assert type(body) is kind  # so that a server can compute its length


def test_stream_is_sent_piece_by_piece(settings: Settings) -> None:
    made: list[int] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        fill(session_of(environ))
        start_response("200 OK", list(PLAIN))
        for number in range(3):
            made.append(number)
            yield b"%d" % number

    answer = attempt(checked(app, settings), stop_after=2)
    assert (answer.body, made) == (b"01", [0, 1])
    assert len(answer.set_cookies) == 1


def test_answers_of_every_status_carry_the_session(settings: Settings) -> None:
    for around in BOTH_WAYS:
        for method, status, *answer_of in (
            ("HEAD", "200 OK", PLAIN, ()),
            ("GET", "204 No Content", [], ()),
            ("GET", "304 Not Modified", [], ()),
            ("GET", "500 Internal Server Error", PLAIN, (b"page",)),
            ("GET", "503 Service Unavailable", PLAIN, (b"page",)),
        ):
            answer = ask(around(page_of(fill, status, *answer_of), settings), method=method)
            assert str(answer.status) == status[:3]
            assert saved_session(settings, answer).subject == "alice"


# --- after the headers --------------------------------------------------------------------------

EARLY: dict[str, bytes] = {"piece": b"first", "write": b"first"}


def late_app(late: Use, early: str, reads_first: bool = True) -> WSGIApplication:
    """Uses the session after the headers, which were sent by `early`."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = session_of(environ)
        assert not reads_first or session["cart"]
        write = start_response("200 OK", list(PLAIN))
        if early == "write":
            write(b"first")
        else:
            yield EARLY[early]
        yield repr(late(session)).encode()

    return app


def test_write_after_the_headers_raises(settings: Settings) -> None:
    def check(write: Use) -> None:
        for early, sent in EARLY.items():
            cookie = cookies_with(settings, "alice", cart=["tea"])
            answer = attempt(checked(late_app(write, early), settings), cookie=cookie)
            assert isinstance(answer.error, LateWrite)
            assert answer.body == sent
            assert open_session(settings, cookie).subject == "alice"

    check_each(WRITES, check)
    app = late_app(WRITES["assigning"], "piece", reads_first=False)
    assert isinstance(attempt(checked(app, settings)).error, LateWrite)


def test_first_read_after_the_headers_raises_because_vary_was_not_sent(
    settings: Settings,
) -> None:
    def check(read: Use) -> None:
        for early, sent in EARLY.items():
            app = checked(late_app(read, early, reads_first=False), settings)
            answer = attempt(app, cookie=cookies_with(settings, "alice", cart=["tea"]))
            assert isinstance(answer.error, LateRead)
            assert answer.body == sent
            assert answer.all("Vary") == []

    check_each(READS, check)


def test_session_that_was_read_before_the_headers_can_be_read_after_them(
    settings: Settings,
) -> None:
    app = late_app(lambda session: (session.subject, session["cart"]), "piece")
    cookie = cookies_with(settings, "alice", cart=["tea"])
    answer = ask(checked(app, settings), cookie=cookie)
    assert answer.body == b"first('alice', ['tea'])"
    assert answer.all("Vary") == ["Cookie"]


def in_time(kind: str, pieces: Iterable[bytes]) -> WSGIApplication:
    """Fills the session after the empty piece that `kind` names, then sends `pieces`."""

    def generate(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", list(PLAIN))
        if kind == "write, then yield":
            write(b"")
        else:
            yield b""
            yield b""
        fill(session_of(environ))
        yield from pieces

    def listed(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", list(PLAIN))
        write(b"")
        fill(session_of(environ))
        if kind == "write twice":
            for piece in pieces:
                write(piece)
            return []
        return list(pieces)

    return generate if "yield" in kind else listed


def test_write_after_an_empty_piece_is_in_time(settings: Settings) -> None:
    def check(case: tuple[str, str, tuple[bytes, ...]]) -> None:
        kind, method, pieces = case
        for around in BOTH_WAYS:
            answer = ask(around(in_time(kind, pieces), settings), method=method)
            assert (answer.status, answer.body) == (200, b"".join(pieces))
            assert len(answer.set_cookies) == 1
            assert saved_session(settings, answer).subject == "alice"
            assert answer.all("Vary") == ["Cookie"]

    kinds = ("yield", "write, then yield", "write, then list", "write twice")
    some, none = (b"", b"one", b"", b"two"), (b"", b"")
    ways = (("GET", some), ("GET", none), ("GET", ()), ("HEAD", none))
    check_each([(kind, *way) for kind in kinds for way in ways], check)


def test_exception_after_an_empty_piece_leaves_the_cookies_as_they_were(
    settings: Settings,
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        fill(session_of(environ))
        start_response("200 OK", list(PLAIN))(b"")
        yield b""
        raise Broken

    for around in BOTH_WAYS:
        cookie = cookies_with(settings, "bob", cart=["coffee"])
        answer = attempt(around(app, settings), cookie=cookie)
        assert (type(answer.error), answer.headers) == (Broken, [])
        assert_session_of_bob(settings, cookie)


def test_error_page_after_an_empty_piece_is_saved_with_what_came_after_it(
    settings: Settings,
) -> None:
    app = failing(b"", after=lambda session: session.update(failed=True))
    answer = ask(checked(app, settings))
    assert (answer.status, answer.all("X-Page")) == (500, ["error"])
    assert dict(saved_session(settings, answer)) == {"tries": 1, "failed": True}


def test_late_nested_change_is_logged_by_name_and_not_by_value(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def write_all(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        assert session_of(environ)["cart"]
        start_response("200 OK", list(PLAIN))(b"page")
        append(SECRET_VALUE)(session_of(environ))
        return []

    late = {early: checked(late_app(append(SECRET_VALUE), early), settings) for early in EARLY}
    # A value that no session can contain is lost like any other.
    late["unsupported"] = checked(late_app(append(object()), "piece"), settings)
    late |= {around.__name__: around(write_all, settings) for around in BOTH_WAYS}

    def check(app: WSGIApplication) -> None:
        caplog.clear()
        assert ask(app, cookie=cookies_with(settings, "alice", cart=["tea"])).body
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1
        assert "cart" in errors[0].getMessage()
        assert SECRET_VALUE not in caplog.text

    check_each(late, check)


def test_nested_change_before_the_headers_is_saved_and_not_logged(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    app = checked(page_of(append("milk")), settings)
    answer = ask(app, cookie=cookies_with(settings, cart=["tea"]))
    assert dict(saved_session(settings, answer)) == {"cart": ["tea", "milk"]}
    assert not [record for record in caplog.records if record.name == "sealedstate.wsgi"]


# --- start_response called twice ----------------------------------------------------------------


def try_page(session: Session) -> None:
    session["tries"] = 1


def failing(before: bytes | None, use: Use = try_page, after: Use = repr) -> WSGIApplication:
    """Starts a good page, sends `before` if any, fails, and starts an error page instead."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = session_of(environ)
        use(session)
        start_response("200 OK", [*PLAIN, ("X-Page", "good"), ("Set-Cookie", "theme=dark")])
        if before is not None:
            yield before
        try:
            raise RuntimeError("the page failed")
        except RuntimeError:
            after(session)
            start_response("500 Oops", [*PLAIN, ("X-Page", "error")], sys.exc_info())
        yield b"error page"

    return app


def test_second_start_response_wins_before_the_first_byte(settings: Settings) -> None:
    for before in (None, b""):
        middleware = SealedSessionMiddleware(validator(failing(before)), settings)
        answer = ask(validator(middleware))
        assert (answer.status, answer.all("X-Page"), answer.body) == (500, ["error"], b"error page")
        assert middleware.keeper.counts["saved"] == 1
        assert len(answer.set_cookies) == 1
        assert answer.all("Vary") == ["Cookie"]
        assert answer.all("Cache-Control") == ["no-store, private"]
        assert dict(saved_session(settings, answer)) == {"tries": 1}
    app = failing(None, after=lambda session: session.update(failed=True))
    answer = ask(checked(app, settings))
    assert dict(saved_session(settings, answer)) == {"tries": 1, "failed": True}


def test_error_page_keeps_the_cookie_of_a_new_session_id(settings: Settings) -> None:
    """The old id is revoked by then: without the new cookie, the user would be signed out."""
    for before in (None, b""):
        cookie = cookies_with(settings, "alice")
        app = failing(before, use=WRITES["regenerating"])
        answer = ask(checked(app, settings), cookie=cookie)
        assert open_session(settings, cookie).subject is None
        assert saved_session(settings, answer).subject == "alice"


def test_exception_after_the_first_byte_is_raised_again(settings: Settings) -> None:
    answer = attempt(checked(failing(b"good"), settings))
    assert isinstance(answer.error, RuntimeError)
    assert (answer.status, answer.body) == (200, b"good")
    assert len(answer.set_cookies) == 2  # the application's own, and the session


def test_error_page_of_an_untouched_session_gets_no_header(settings: Settings) -> None:
    app = failing(b"", use=repr)
    assert ask(checked(app, settings)).headers == [*PLAIN, ("X-Page", "error")]


def test_second_start_response_without_exc_info_is_an_error(settings: Settings) -> None:
    def before(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        fill(session_of(environ))
        start_response("200 OK", list(PLAIN))
        start_response("302 Found", list(PLAIN))
        return [b"page"]

    def after(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"page"
        start_response("302 Found", list(PLAIN))

    for app in (before, after):
        for around in BOTH_WAYS:
            answer = attempt(around(app, settings))
            assert isinstance(answer.error, AssertionError)
            assert "start_response was called twice" in str(answer.error)
            assert answer.headers == ([] if app is before else PLAIN)


def test_application_that_never_answers_gets_the_error_of_the_server(settings: Settings) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        fill(session_of(environ))
        return []

    middleware = SealedSessionMiddleware(app, settings)
    assert "never called start_response" in str(attempt(middleware).error)
    assert middleware.keeper.counts["saved"] == 0


# --- exceptions ---------------------------------------------------------------------------------


class Broken(Exception):
    """What applications raise in these tests."""


def break_at(moment: str, broken: str) -> None:
    if moment == broken:
        raise Broken


def broken_at(moment: str) -> WSGIApplication:
    """Fills the session, and raises Broken at `moment`."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        fill(session_of(environ))
        break_at("before start_response", moment)
        start_response("200 OK", list(PLAIN))
        break_at("after start_response", moment)
        return pieces()

    def pieces() -> Iterator[bytes]:
        break_at("before the first piece", moment)
        yield b"first"
        break_at("after the first piece", moment)

    return app


def test_exception_leaves_the_cookies_as_they_were_sent(settings: Settings) -> None:
    for moment in ("before start_response", "after start_response", "before the first piece"):
        for around in BOTH_WAYS:
            cookie = cookies_with(settings, "bob", cart=["coffee"])
            answer = attempt(around(broken_at(moment), settings), cookie=cookie)
            assert (type(answer.error), answer.headers) == (Broken, [])
            assert_session_of_bob(settings, cookie)
    for around in BOTH_WAYS:
        answer = attempt(around(broken_at("after the first piece"), settings))
        assert (type(answer.error), answer.body) == (Broken, b"first")
        assert saved_session(settings, answer).subject == "alice"


def assert_session_of_bob(settings: Settings, cookie: str) -> None:
    session = open_session(settings, cookie)
    assert (session.subject, dict(session)) == ("bob", {"cart": ["coffee"]})


def write_too_much(session: Session) -> None:
    """Too much for the cookies, by a change that only a save finds."""
    library = session["library"] = list[bytes]()
    library.append(b"\xff" * 5000)


def test_failing_save_reaches_the_server_before_any_header(clock: Clock) -> None:
    def saving(kind: str) -> WSGIApplication:
        def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            write_too_much(session_of(environ))
            write = start_response("200 OK", list(PLAIN))
            if kind == "write":
                write(b"page")
            return [b"page"] if kind == "list" else iter([b"page"])

        return app

    for error, store in (
        (SessionTooLarge, None),
        (StorageError, ScriptedStorage(clock).fail("create")),
    ):
        settings = in_memory(clock, store)
        for kind in ("list", "generator", "write"):
            cookie = cookies_with(settings, "bob", cart=["coffee"])
            answer = attempt(half_checked(saving(kind), settings), cookie=cookie)
            assert isinstance(answer.error, error)
            assert (answer.status, answer.headers, answer.body) == (0, [], b"")
            assert_session_of_bob(settings, cookie)


def test_application_can_answer_for_a_session_that_is_too_large(clock: Clock) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = session_of(environ)
        write_too_much(session)
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
    assert dict(saved_session(settings, answer)) == {"full": True}


# --- close() and a server's file wrapper --------------------------------------------------------


class ClosableBody:
    """Counts its closes. `broken`: where it raises Broken, if anywhere."""

    def __init__(self, broken: str = "") -> None:
        self.closes = 0
        self._broken = broken

    def __iter__(self) -> Iterator[bytes]:
        break_at("iter", self._broken)
        return self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        break_at("first piece", self._broken)
        yield b"one"
        break_at("second piece", self._broken)
        yield b"two"
        break_at("end", self._broken)

    def close(self) -> None:
        self.closes += 1
        break_at("close", self._broken)


class FileWrapper(ClosableBody):
    """A server's file wrapper that is a class, as in gunicorn, waitress and wsgiref."""


def file_wrapper(file: object) -> ClosableBody:
    """A file wrapper that is a function, as in uWSGI."""
    return ClosableBody()


def returning(body: Iterable[bytes], use: Use) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        use(session_of(environ))
        start_response("200 OK", list(PLAIN))
        return body

    return app


USES: dict[str, Use] = {
    "untouched": lambda session: None,
    "read": lambda session: session.get("cart"),
    "written": lambda session: session.update(cart=["tea"]),
}


def test_body_is_closed_once_wherever_it_ends(settings: Settings) -> None:
    def check(use: Use) -> None:
        for stop_after in (None, 0, 1, 2):
            body = ClosableBody()
            app = half_checked(returning(body, use), settings)
            assert attempt(app, stop_after=stop_after).error is None
            assert body.closes == 1
        for broken in ("iter", "first piece", "second piece", "end", "close"):
            body = ClosableBody(broken)
            middleware = SealedSessionMiddleware(returning(body, use), settings)
            assert isinstance(attempt(middleware).error, Broken)
            assert body.closes == 1

    check_each(USES, check)


def test_late_change_is_logged_even_if_closing_the_body_fails(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    class Changing(ClosableBody):
        def close(self) -> None:
            append("milk")(used[0])
            super().close()

    used: list[Session] = []

    def use(session: Session) -> None:
        used.append(session)
        assert session["cart"]

    middleware = SealedSessionMiddleware(returning(Changing("close"), use), settings)
    answer = attempt(middleware, cookie=cookies_with(settings, cart=["tea"]))
    assert isinstance(answer.error, Broken)
    assert "cart" in caplog.text


def test_body_is_closed_once_if_the_session_cannot_be_saved(clock: Clock) -> None:
    settings = Settings(keys=[KEY.export()], clock=clock)
    for body, extras in (
        (ClosableBody(), {}),
        (FileWrapper(), {"wsgi.file_wrapper": FileWrapper}),
    ):
        middleware = SealedSessionMiddleware(returning(body, write_too_much), settings)
        assert isinstance(attempt(middleware, extras=extras).error, SessionTooLarge)
        assert body.closes == 1


def test_file_of_the_server_reaches_it_as_it_is_and_is_closed_once(settings: Settings) -> None:
    def check(use: Use) -> None:
        body, started = FileWrapper(), list[Headers]()

        def start_response(status: str, headers: Headers, exc_info: object = None, /) -> Any:
            started.append(headers)

        environ = environ_of(extras={"wsgi.file_wrapper": FileWrapper})
        middleware = SealedSessionMiddleware(returning(body, use), settings)
        assert middleware(environ, start_response) is body
        assert body.closes == 0  # the server closes it after sending it
        (headers,) = started
        cookies = [name for name, _ in headers if name == "Set-Cookie"]
        assert len(cookies) == (use is USES["written"])

    check_each(USES, check)
    for body, wrapper in ((FileWrapper(), FileWrapper), (ClosableBody(), file_wrapper)):
        app = half_checked(returning(body, fill), settings)
        answer = ask(app, extras={"wsgi.file_wrapper": wrapper})
        assert (answer.body, body.closes) == (b"onetwo", 1)
        assert saved_session(settings, answer).subject == "alice"


# --- headers by use -----------------------------------------------------------------------------


UNTOUCHED: dict[str, Use] = {
    "not at all": lambda session: None,
    "repr": repr,
    "accessed": lambda session: session.accessed,
}


def test_untouched_session_opens_nothing_and_adds_no_header(
    settings: Settings, clock: Clock
) -> None:
    cookie = cookies_with(settings, "alice", cart=["tea"])
    store = ScriptedStorage(clock)
    strict = in_memory(clock, store)
    headers = [*PLAIN, ("Cache-Control", "public, max-age=60"), ("Vary", "Accept")]

    def check(use: Use) -> None:
        for around in BOTH_WAYS:
            answer = ask(around(page_of(use, headers=headers), strict), cookie=cookie)
            assert answer.headers == headers

    check_each(UNTOUCHED, check)
    assert set(store.count) == {"ping", "read"}
    assert store.count["ping"] == store.count["read"]  # of each middleware at its start
    middleware = SealedSessionMiddleware(page_of(repr), settings)
    before = middleware.keeper.counts
    ask(middleware, cookie=cookie)
    assert middleware.keeper.counts == before


# Writes of what the session already contains.
UNCHANGED: dict[str, Use] = {
    "the same again": lambda session: session.__setitem__("cart", ["tea"]),
}


def test_read_adds_vary_and_nothing_else(settings: Settings) -> None:
    headers = [*PLAIN, ("Cache-Control", "max-age=60")]
    cookie = cookies_with(settings, "alice", cart=["tea"])

    def check(read: Use) -> None:
        for around in BOTH_WAYS:
            answer = ask(around(page_of(read, headers=headers), settings), cookie=cookie)
            assert answer.headers == [*headers, ("Vary", "Cookie")]

    check_each(READS | UNCHANGED, check)


def test_write_adds_vary_cache_control_and_the_cookie(settings: Settings) -> None:
    def check(write: Use) -> None:
        for around in BOTH_WAYS:
            cookie = cookies_with(settings, "alice", cart=["tea"])
            *headers, (name, _) = ask(around(page_of(write), settings), cookie=cookie).headers
            added = [("Vary", "Cookie"), ("Cache-Control", "no-store, private")]
            assert (headers, name) == ([*PLAIN, *added], "Set-Cookie")

    check_each(WRITES | {"nested": append("milk")}, check)


def test_read_that_renews_the_seal_is_not_stored_by_caches(
    settings: Settings, clock: Clock
) -> None:
    cookie = cookies_with(settings, "alice")
    clock.now += settings.lifetimes().refresh
    answer = ask(checked(page_of(lambda session: session.subject), settings), cookie=cookie)
    assert len(answer.set_cookies) == 1
    assert answer.all("Cache-Control") == ["no-store, private"]


# --- headers of the application -----------------------------------------------------------------

VARY: tuple[tuple[list[str], str], ...] = (
    ([], "Cookie"),
    (["Accept-Encoding"], "Accept-Encoding, Cookie"),
    (["Cookie"], "Cookie"),
    (["cookie"], "cookie"),
    (["Accept, COOKIE"], "Accept, COOKIE"),
    (["Accept", "Cookie"], "Accept, Cookie"),
    (["Cookie", "Accept-Language"], "Cookie, Accept-Language"),
    (["cookie", "Accept , accept", "COOKIE,ACCEPT"], "cookie, Accept"),
    (["Accept", "Accept-Language"], "Accept, Accept-Language, Cookie"),
    (["*"], "*"),
    (["Accept, *"], "*"),
    (["*", "Cookie"], "*"),
    (["Cookie", "*"], "*"),
    (["X-Cookie"], "X-Cookie, Cookie"),
    (["Cookie2, Cookies"], "Cookie2, Cookies, Cookie"),
    ([""], "Cookie"),
    ([",", " Accept,,"], "Accept, Cookie"),
)
CACHE_CONTROL: tuple[tuple[list[str], str], ...] = (
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
)


def test_vary_is_one_line_that_names_the_cookie_once(settings: Settings) -> None:
    def check(case: tuple[list[str], str]) -> None:
        values, merged = case
        for name in ("Vary", "vary", "VARY"):
            headers = [*PLAIN, *((name, value) for value in values), ("X-Last", "1")]
            for use in (len, lambda session: session.update(seen=True)):
                answer = ask(checked(page_of(use, headers=headers), settings))
                assert answer.all("Vary") == [merged]
                assert answer.all("X-Last") == ["1"]

    check_each(VARY, check)


def test_cache_control_forbids_storing_whatever_the_application_sets(settings: Settings) -> None:
    def check(case: tuple[list[str], str]) -> None:
        values, merged = case
        for name in ("Cache-Control", "cache-control"):
            headers = [*PLAIN, *((name, value) for value in values)]
            app = page_of(lambda session: session.update(seen=True), headers=headers)
            assert ask(checked(app, settings)).all("Cache-Control") == [merged]

    check_each(CACHE_CONTROL, check)


def test_cache_control_is_one_line_if_the_session_was_only_read(settings: Settings) -> None:
    for values, merged in (
        (["max-age=60"], "max-age=60"),
        (["private", "max-age=60, no-transform"], "private, max-age=60, no-transform"),
        (['no-cache="A, B"', "", "public"], 'no-cache="A, B", public'),
    ):
        headers = [*PLAIN, *(("Cache-Control", value) for value in values)]
        assert ask(checked(page_of(len, headers=headers), settings)).all("Cache-Control") == [
            merged
        ]


TARGETED: dict[tuple[str, str], str] = {
    ("X-Accel-Expires", "600"): "0",
    ("CDN-Cache-Control", "public, max-age=600"): "no-store",
    ("Cloudflare-CDN-Cache-Control", "max-age=600"): "no-store",
    ("Netlify-CDN-Cache-Control", "durable, s-maxage=600"): "no-store",
    ("surrogate-control", 'max-age=600, content="ESI/1.0"'): 'no-store, content="ESI/1.0"',
    ("Surrogate-Control", "max-age=600"): "no-store",
    ("Edge-Control", "!no-store, cache-maxage=1d"): "no-store",
    ("X-LiteSpeed-Cache-Control", "public, max-age=600"): "no-cache",
    ("Expires", "Thu, 01 Jan 2099 00:00:00 GMT"): "Thu, 01 Jan 1970 00:00:00 GMT",
}


def test_fields_for_one_kind_of_cache_forbid_storing_with_a_cookie(settings: Settings) -> None:
    def check(case: tuple[tuple[str, str], str]) -> None:
        (name, value), overridden = case
        headers = [*PLAIN, (name, value), (name, value)]
        write, read = page_of(fill, headers=headers), page_of(len, headers=headers)
        answer = ask(checked(write, settings))
        assert answer.all(name) == [overridden] * 2
        assert answer.all("Cache-Control") == ["no-store, private"]
        # A page that only reads the session is the application's to cache, by its cookie.
        assert ask(checked(read, settings)).all(name) == [value] * 2

    check_each(TARGETED.items(), check)


def test_cookies_of_the_application_are_kept(settings: Settings) -> None:
    own = [("Set-Cookie", "theme=dark; Path=/"), ("set-cookie", "lang=de; Path=/")]
    app = page_of(lambda session: session.update(seen=True), headers=[*PLAIN, *own])
    answer = ask(checked(app, settings))
    assert answer.set_cookies[:2] == [value for _, value in own]
    assert len(answer.set_cookies) == 3


def test_cookies_of_the_application_count_in_the_budget(settings: Settings, clock: Clock) -> None:
    def write_large(session: Session) -> None:
        session["library"] = b"\xff" * 1800

    def places(session: Session) -> list[str | None]:
        return [place and place.value for place in places_of(session).values()]

    alone, beside = page_of(write_large), page_of(write_large, headers=[*PLAIN, OWN_LARGE])
    answer = ask(checked(alone, settings))
    assert places(saved_session(settings, answer)) == ["core"]
    answer = ask(checked(beside, settings))
    size = sum(len(f"Set-Cookie: {line}\r\n") for line in answer.set_cookies)
    assert size <= settings.budget_profile().response_bytes
    session = open_session(settings, cookie_header(answer.set_cookies[1:]))
    assert places(session) == ["spilled"]
    assert session["library"] == b"\xff" * 1800
    without_store = Settings(keys=[KEY.export()], clock=clock)
    assert ask(checked(alone, without_store)).set_cookies
    assert isinstance(attempt(checked(beside, without_store)).error, SessionTooLarge)


# --- refusals -----------------------------------------------------------------------------------


def page_app(write: bool) -> WSGIApplication:
    """Shows everything of the session, and writes into it if asked to."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = session_of(environ)
        body = f"{session.subject} {dict(session)} {session.is_new} {session.expires_at}"
        if write:
            session["csrf"] = "f00d"
        start_response("200 OK", list(PLAIN))
        return [body.encode()]

    return app


def flip(text: str, position: int) -> str:
    token = bytearray(from_text(text))
    token[position] ^= 1
    return to_text(bytes(token))


def sealed_for(purpose: str, realm: str, name: str, payload: bytes = b"\x80") -> str:
    context = TokenContext(purpose, realm, (name,))
    return to_text(seal(payload, context, KEY, START, os.urandom(32)))


class Scene:
    """One ring, one store, one clock, and every way in which a token can be bad."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryStorage(self.clock)
        self.settings = self.make()
        self.good = cookies_with(self.settings, "alice", cart=["tea"])
        self.value = self.good.partition("=")[2]

    def make(self, key: Key = KEY, **more: Any) -> Settings:
        keys = StaticKeys(Keyring((key, Key.generate(os.urandom, START + 10**6))))
        usual = {"storage": self.store, "accept_weak_store_for": ["revocation"]}
        return Settings(**{"keys": keys, "clock": self.clock, **usual, **more})

    def named(self, value: str) -> str:
        return f"{self.settings.cookie_family().name}={value}"

    def sealed_before(self, seconds: int) -> str:
        now, self.clock.now = self.clock.now, self.clock.now - seconds
        cookie = cookies_with(self.settings, "alice")
        self.clock.now = now
        return cookie

    def revoked(self) -> str:
        cookie = cookies_with(self.settings, "alice")
        open_session(self.settings, cookie).invalidate()
        return cookie


FOREIGN = Key.generate(os.urandom)


# Every other form of a bad token is in tests/vectors.
def newer_format(scene: Scene) -> str:
    return to_text(b"\2" + from_text(scene.value)[1:])


BAD: dict[str, Callable[[Scene], str]] = {
    "empty": lambda scene: scene.named(""),
    "garbage": lambda scene: scene.named("garbage"),
    "not our alphabet": lambda scene: scene.named('{"user": "admin"}'),
    "not text": lambda scene: scene.named("\xff\x00\x80" * 40),
    "over-long": lambda scene: scene.named(f"{scene.value}{'A' * 60_000}"),
    "truncated": lambda scene: scene.named(scene.value[:-4]),
    "extended": lambda scene: scene.named(f"{scene.value}AAAA"),
    "not canonical": lambda scene: scene.named(f"{scene.value}="),
    "altered tag": lambda scene: scene.named(flip(scene.value, -1)),
    "altered ciphertext": lambda scene: scene.named(flip(scene.value, 40)),
    "altered nonce": lambda scene: scene.named(flip(scene.value, 10)),
    "no format": lambda scene: scene.named(flip(scene.value, 0)),
    "no format, over-long": lambda scene: scene.named("A" * 60_000),
    "another name": lambda scene: scene.named(sealed_for("core", "default", "other")),
    "another realm": lambda scene: scene.named(sealed_for("core", "other", "__Host-Http-s")),
    "another purpose": lambda scene: scene.named(sealed_for("stored", "default", "__Host-Http-s")),
    "idle too long": lambda scene: scene.sealed_before(2 * 3600),
    "logged out": Scene.revoked,
}
WITHHELD: dict[str, Callable[[Scene], str]] = {
    "a newer format": lambda scene: scene.named(newer_format(scene)),
    "a newer format, over-long": lambda scene: scene.named(newer_format(scene) + "A" * 60_000),
    "an unknown key": lambda scene: cookies_with(scene.make(FOREIGN), "alice"),
    "sealed in the future": lambda scene: scene.sealed_before(-121),
    "two sessions": lambda scene: f"{scene.good}; {cookies_with(scene.settings, 'bob')}",
    "a record of a newer release": lambda scene: scene.named(
        sealed_for("core", "default", "__Host-Http-s")
    ),
}


def assert_same_answer(scene: Scene, settings: Settings, bad: str, write: bool = False) -> None:
    """A bad cookie gets the answer of no cookie, to the byte."""
    app = page_app(write)
    without, with_bad = ask(checked(app, settings)), ask(checked(app, settings), cookie=bad)
    assert (with_bad.status, with_bad.headers) == (without.status, without.headers)
    assert with_bad.body == without.body == b"None {} True None"
    assert ask(checked(app, scene.settings), cookie=scene.good).body != without.body


def test_refused_cookie_gets_the_answer_of_no_cookie() -> None:
    def check(bad: Callable[[Scene], str]) -> None:
        scene = Scene()
        # A constant instead of random bytes: the same record is then sealed to the same cookie.
        settings = scene.make(random=lambda count: b"\x07" * count)
        for write in (False, True):
            assert_same_answer(scene, settings, bad(scene), write)

    check_each(BAD, check)
    for key in ({"expires_at": START}, {"revoked": True}, {"disabled": True}):
        scene = Scene()
        settings = scene.make(Key(KEY.kid, KEY.secret, **key))
        assert_same_answer(scene, settings, scene.good)


def test_withheld_cookie_gets_the_answer_of_no_cookie_and_is_kept() -> None:
    def check(bad: Callable[[Scene], str]) -> None:
        scene = Scene()
        cookie = bad(scene)
        assert_same_answer(scene, scene.settings, cookie)
        assert ask(checked(page_app(True), scene.settings), cookie=cookie).set_cookies == []

    check_each(WITHHELD, check)


def test_unreachable_store_gets_the_answer_of_no_cookie_and_keeps_the_cookie() -> None:
    scene = Scene()
    settings = scene.make(storage=ScriptedStorage(scene.clock).fail("read", "create"))
    assert_same_answer(scene, settings, scene.good)
    assert ask(checked(page_app(True), settings), cookie=scene.good).set_cookies == []

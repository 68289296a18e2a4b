"""No visitor behind a shared cache gets the cookie or the page of another.

The cache is a model of RFC 9111 that keeps every response that it may keep, answers with it as long
as it may, Set-Cookie fields included, and updates it from a 304.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from sealedstate import Key, LateRead, Session, Settings
from sealedstate_wsgi import SealedSessionMiddleware
from tests.support.client import Answer, Headers, attempt
from tests.support.jar import Jar

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

START = 1_800_000_000
# Statuses that a cache may keep without a lifetime (RFC 9110, 15.1).
KEPT_BY_HEURISTICS = frozenset({200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501})


# --- the cache ----------------------------------------------------------------------------------


@dataclass
class Kept:
    """A stored response and the fields of the request that it was chosen by."""

    answer: Answer
    varying: dict[str, str]


class SharedCache:
    """A cache in front of `application`. `hits`: the answers without it."""

    def __init__(self, application: WSGIApplication) -> None:
        self.hits = 0
        self._application = application
        self._kept: dict[str, list[Kept]] = {}

    def get(self, path: str, cookie: str = "", method: str = "GET") -> Answer:
        """The answer to a visitor with this Cookie header."""
        fields = {"cookie": cookie, "accept-encoding": "gzip"}
        for kept in self._kept.get(path, ()):
            if kept.varying == {name: fields.get(name, "") for name in kept.varying}:
                self.hits += 1
                return kept.answer
        answer = attempt(self._application, path, cookie, method)
        if answer.error is None and method == "GET" and _may_be_kept(answer):
            self._keep(path, fields, answer)
        return answer

    def revalidate(self, path: str, cookie: str) -> None:
        """Freshen what is kept with the application's 304 to this visitor (RFC 9111, 4.3.4)."""
        answer = attempt(self._application, path, cookie)
        assert answer.status == 304
        if _may_be_kept(answer):
            fresh = {name.lower() for name, _ in answer.headers}
            for kept in self._kept[path]:
                old = [field for field in kept.answer.headers if field[0].lower() not in fresh]
                kept.answer.headers = old + answer.headers

    def _keep(self, path: str, fields: dict[str, str], answer: Answer) -> None:
        names = {name for value in answer.all("Vary") for name in _members(value)}
        if "*" not in names:
            varying = {name: fields.get(name, "") for name in names}
            self._kept.setdefault(path, []).append(Kept(answer, varying))


def _may_be_kept(answer: Answer) -> bool:
    """Whether a shared cache may store it, or freshen others with it (RFC 9111, 3)."""
    directives = {member for value in answer.all("Cache-Control") for member in _members(value)}
    if directives & {"no-store", "private"}:
        return False
    permitted = any(member.startswith(("public", "max-age=", "s-maxage=")) for member in directives)
    return permitted or answer.status in KEPT_BY_HEURISTICS or answer.status == 304


def _members(value: str) -> set[str]:
    return {member.strip().lower() for member in value.split(",")} - {""}


# --- the application ----------------------------------------------------------------------------


def change_nested(session: Session) -> None:
    cart: Any = session["cart"]
    cart.append("milk")


TOUCHES: dict[str, Callable[[Session], object]] = {
    "in": lambda session: "cart" in session,
    "len": len,
    "iter": list,
    "get": lambda session: session.get("cart"),
    "getitem": lambda session: session["cart"],
    "subject": lambda session: session.subject,
    "id": lambda session: session.id,
    "is_new": lambda session: session.is_new,
    "assign": lambda session: session.__setitem__("seen", True),
    "assign the same": lambda session: session.__setitem__("cart", ["tea"]),
    "delete": lambda session: session.pop("cart"),
    "clear": lambda session: session.clear(),
    "update": lambda session: session.update(seen=True),
    "setdefault": lambda session: session.setdefault("seen", True),
    "nested": change_nested,
    "spill": lambda session: session.__setitem__("large", "x" * 9000),
    "regenerate": lambda session: session.regenerate(),
    "sign in": lambda session: setattr(session, "subject", f"{session.subject}-admin"),
    "sign out": lambda session: session.invalidate(),
}

# Status and headers of the page, as hostile to privacy as an application can make them.
PUBLIC = ("Cache-Control", "public, max-age=600, s-maxage=600, immutable")
PAGES: dict[str, tuple[str, Headers]] = {
    "silent": ("200 OK", []),
    "public": ("200 OK", [PUBLIC]),
    "lower case": ("200 OK", [("cache-control", "Public"), ("cache-control", "MAX-AGE=9")]),
    "its own vary": ("200 OK", [PUBLIC, ("Vary", "Accept-Encoding")]),
    "no content": ("204 No Content", [PUBLIC]),
    "moved": ("301 Moved Permanently", [("Location", "/"), PUBLIC]),
    "found": ("302 Found", [("Location", "/"), PUBLIC]),
    "not modified": ("304 Not Modified", [PUBLIC, ("ETag", '"1"')]),
    "not found": ("404 Not Found", [PUBLIC]),
    "error": ("500 Internal Server Error", [PUBLIC]),
}
KINDS = ["list", "generator", "late filler", "write", "empty first", "error page"]


def greeting(session: Session, touch: Callable[[Session], object]) -> bytes:
    """The body of the page, which names the visitor if the session was touched."""
    body = f"dear {session.subject}, " if session.accessed else ""
    touch(session)
    return f"{body}{session.subject if session.accessed else 'a visitor'}".encode()


def application(touch: Callable[[Session], object], page: str, kind: str) -> WSGIApplication:
    """Answers with `page` after `touch`, in the way that `kind` says."""
    status, fields = PAGES[page]

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session, headers = environ["sealedstate.session"], [("Content-Type", "text/plain"), *fields]
        if kind == "list":
            body = greeting(session, touch)
            start_response(status, headers)
            return [body]
        if kind == "write":
            body = greeting(session, touch)
            start_response(status, headers)(body)
            return []
        return pieces(session, headers, start_response)

    def pieces(
        session: Session, headers: Headers, start_response: StartResponse
    ) -> Iterator[bytes]:
        if kind == "late filler":
            start_response(status, headers)
            yield greeting(session, touch)
            return
        body = greeting(session, touch)
        start_response(status, headers)
        if kind == "empty first":
            yield b""
        if kind == "error page":
            yield b""
            try:
                raise RuntimeError
            except RuntimeError:
                start_response(status, list(headers), sys.exc_info())
        yield body

    return app


class Scene:
    """Two users, each with a browser, behind one cache."""

    def __init__(self, app: WSGIApplication) -> None:
        self.now = START
        settings = Settings(
            keys=[Key.generate(os.urandom).export()],
            storage="memory:",
            accept_weak_store_for=["revocation"],
            clock=lambda: float(self.now),
        )
        self.middleware = SealedSessionMiddleware(app, settings)
        self.cache = SharedCache(self.middleware)
        self.jars = {name: self._jar_of(name) for name in ("alice", "bob")}
        self.jars["guest"] = Jar()

    def _jar_of(self, name: str) -> Jar:
        session, jar = self.middleware.keeper.session(), Jar()
        session.subject = name
        session["cart"] = ["tea"]
        jar.receive(self.middleware.keeper.save(session))
        return jar

    def visit(self, name: str, method: str = "GET") -> Answer:
        """A visit of the page, which must hold nothing of another visitor."""
        hits = self.cache.hits
        answer = self.cache.get("/page", self.jars[name].header(), method)
        for other in {"alice", "bob"} - {name}:
            assert other.encode() not in answer.body, f"{name} got {other}'s page"
        assert not answer.set_cookies or self.cache.hits == hits, "a cookie came from the cache"
        self.jars[name].receive(answer.set_cookies)
        return answer


def visit_in_turns(scene: Scene, method: str) -> None:
    # Each visitor twice, in another order: the second round shows what the cache keeps.
    for name in ("alice", "bob", "guest", "bob", "alice", "guest"):
        scene.visit(name, method)


# --- what it must not share ---------------------------------------------------------------------


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_visitor_never_gets_the_page_or_cookie_of_another(
    touch: Callable[[Session], object],
) -> None:
    def tolerant(session: Session) -> object:
        # A guest has no cart.
        return touch(session) if "cart" in session else session.update(visited=True)

    for kind, page in product(KINDS, PAGES):
        visit_in_turns(Scene(application(tolerant, page, kind)), "GET")


@pytest.mark.parametrize("touch", [TOUCHES["subject"], TOUCHES["assign"]], ids=["read", "write"])
def test_head_shares_no_more_than_get(touch: Callable[[Session], object]) -> None:
    scene = Scene(application(touch, "public", "list"))
    visit_in_turns(scene, "GET")
    visit_in_turns(scene, "HEAD")


def test_refreshed_cookie_is_not_shared() -> None:
    for page in PAGES:
        scene = Scene(application(lambda session: session.subject, page, "list"))
        scene.now += scene.middleware.keeper.deployment.lifetimes.refresh
        assert scene.visit("alice").set_cookies
        visit_in_turns(scene, "GET")


@pytest.mark.parametrize("kind", KINDS)
def test_revalidation_by_one_visitor_leaves_no_cookie_in_a_shared_page(kind: str) -> None:
    """First a page without session is kept, then a 304 with one comes by."""
    shared = application(lambda session: None, "public", kind)
    unchanged = application(TOUCHES["assign"], "not modified", kind)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        chosen = unchanged if environ.get("HTTP_COOKIE") else shared
        return chosen(environ, start_response)

    scene = Scene(app)
    assert scene.visit("guest").body == b"a visitor"
    scene.cache.revalidate("/page", scene.jars["bob"].header())
    visit_in_turns(scene, "GET")
    assert scene.cache.hits == 6


def test_first_look_in_the_middle_of_a_stream_is_refused_and_not_kept() -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), PUBLIC])
        yield b"welcome, "
        yield str(environ["sealedstate.session"].subject).encode()

    scene = Scene(app)
    for name in ("alice", "bob", "guest"):
        answer = scene.visit(name)
        assert isinstance(answer.error, LateRead)
        assert answer.body == b"welcome, "
    assert scene.cache.hits == 0


# --- what it may share, without which the model would prove nothing -----------------------------


def test_page_of_an_untouched_session_is_shared() -> None:
    for kind in KINDS:
        scene = Scene(application(lambda session: None, "public", kind))
        visit_in_turns(scene, "GET")
        assert scene.cache.hits == 5, kind


def test_page_that_read_the_session_is_kept_for_its_visitor() -> None:
    scene = Scene(application(lambda session: session.subject, "public", "list"))
    visit_in_turns(scene, "GET")
    assert scene.cache.hits == 3


@pytest.mark.parametrize("touch", [TOUCHES["subject"], TOUCHES["assign"]], ids=["read", "write"])
def test_model_shares_private_pages_without_the_headers_of_the_middleware(
    touch: Callable[[Session], object],
) -> None:
    scene = Scene(application(touch, "public", "list"))

    def unmarked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: Headers, exc_info: Any = None, /) -> Any:
            ours = ("vary", "cache-control")
            kept = [field for field in headers if field[0].lower() not in ours]
            return start_response(status, [*kept, PUBLIC], exc_info)

        return scene.middleware(environ, start)

    scene.cache = SharedCache(unmarked)
    scene.visit("alice")
    with pytest.raises(AssertionError, match="bob got alice's page"):
        scene.visit("bob")

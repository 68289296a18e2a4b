"""The ASGI middleware in process: the dict, the headers, logins, late uses, websockets."""

from __future__ import annotations

import copy
import gc
import json
import logging
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from sealedstate import (
    ConfigurationError,
    Keeper,
    LateRead,
    LateWrite,
    SessionNotLoaded,
    SessionTooLarge,
    Settings,
    StorageError,
    UnsupportedValue,
    UsageError,
)
from sealedstate.key_sources import StaticKeys
from sealedstate.testing import ScriptedStorage
from sealedstate_asgi import SealedSessionMiddleware, load_session, sealed
from tests.support.asgi import ASGIBrowser
from tests.support.client import Answer
from tests.support.jar import RING, Clock
from tests.support.shop import node

View = Callable[[Request], Any]


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application that never answers."""


def browse(*views: View, backend: str = "asyncio", **given: Any) -> ASGIBrowser:
    """A browser of an application with a view at each path that a view is named after."""
    routes = [Route(f"/{view.__name__}", view) for view in views]
    given = {"settings": node(Clock(), None)} | given
    application = Starlette(
        routes=routes, middleware=[Middleware(SealedSessionMiddleware, **given)]
    )
    return ASGIBrowser(application, backend)


@pytest.fixture
def store() -> ScriptedStorage:
    return ScriptedStorage(Clock())


async def count(request: Request) -> Response:
    request.session["n"] = request.session.get("n", 0) + 1
    return JSONResponse(request.session)


async def free(request: Request) -> Response:
    return JSONResponse(None)


async def read(request: Request) -> Response:
    return JSONResponse(request.session)


async def login(request: Request) -> Response:
    sealed(request).sign_in("ann", persistent=True)
    return JSONResponse(sealed(request).id)


async def logout(request: Request) -> Response:
    await sealed(request).invalidate()
    return JSONResponse([request.session, sealed(request).subject])


async def who(request: Request) -> Response:
    return JSONResponse(sealed(request).subject)


def test_sign_in_and_subject_key_are_one_way() -> None:
    async def enter(request: Request) -> Response:
        sealed(request).sign_in("7")
        return JSONResponse([request.session, sealed(request).subject])

    async def leave(request: Request) -> Response:
        sealed(request).subject = None
        return JSONResponse(request.session)

    browser = browse(count, enter, leave, who, settings=node(Clock(), None, subject_key="user"))
    browser.get("/count")
    assert browser.get("/enter").json == [{"n": 1, "user": "7"}, "7"]
    assert (browser.get("/who").json, browser.get("/count").json) == ("7", {"n": 2, "user": "7"})
    assert (browser.get("/leave").json, browser.get("/who").json) == ({}, None)


# --- headers ------------------------------------------------------------------------------------


def headers_of(answer: Answer) -> tuple[list[str], list[str], int]:
    return answer.all("Vary"), answer.all("Cache-Control"), len(answer.set_cookies)


@pytest.mark.parametrize("has_store", [False, True])
def test_headers_say_what_a_request_did(has_store: bool, store: ScriptedStorage) -> None:
    browser = browse(count, free, read, settings=node(Clock(), store if has_store else None))
    assert headers_of(browser.get("/free")) == ([], [], 0)
    assert headers_of(browser.get("/read")) == (["Cookie"], [], 0)
    assert headers_of(browser.get("/count")) == (["Cookie"], ["no-store, private"], 1)
    assert headers_of(browser.get("/free")) == ([], [], 0)
    assert headers_of(browser.get("/read")) == (["Cookie"], [], 0)


def test_cookies_of_http2_come_in_crumbs() -> None:
    browser = browse(count)
    browser.get("/count")
    (pair,) = browser.jar.header().split("; ")
    browser.jar = type(browser.jar)()
    crumbs = [(b"cookie", b"a=b"), (b"cookie", pair.encode()), (b"cookie", b"c=d")]
    assert browser.get("/count", *crumbs).json == {"n": 2}


def test_exception_before_the_start_leaves_the_cookies(store: ScriptedStorage) -> None:
    async def broken(request: Request) -> Response:
        request.session["n"] = 7
        raise RuntimeError

    async def forbidden(request: Request) -> Response:
        request.session["flash"] = "sign in first"
        raise HTTPException(403)

    browser = browse(broken, forbidden, read, settings=node(Clock(), store))
    answer = browser.attempt("/broken")
    assert (answer.status, answer.set_cookies) == (500, [])
    assert browser.get("/forbidden").status == 403
    assert browser.get("/read").json == {"flash": "sign in first"}


def test_failed_save_is_raised_and_the_error_page_carries_no_cookie(
    store: ScriptedStorage,
) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope)
        try:
            request.session["vault"] = "gold"
            await JSONResponse(1)(scope, receive, send)
        except StorageError:
            await JSONResponse("sorry", 503)(scope, receive, send)

    store.fail("create", times=None)
    browser = ASGIBrowser(SealedSessionMiddleware(application, node(Clock(), store)))
    answer = browser.get("/")
    assert (answer.status, answer.set_cookies, answer.json) == (503, [], "sorry")


def test_request_from_another_site_replaces_no_login() -> None:
    cross = (b"sec-fetch-site", b"cross-site")
    assert browse(count).get("/count", cross).set_cookies

    async def post(scope: Any, receive: Any, send: Any) -> None:
        await (await count(Request(scope)))(scope, receive, send)

    browser = ASGIBrowser(SealedSessionMiddleware(post, node(Clock(), None)))
    assert not browser.get("/", cross, method="POST").set_cookies
    assert browser.get("/", method="POST").set_cookies


def test_secure_cookie_over_plain_http_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    browser = browse(count)
    usual = browser.scope
    browser.scope = lambda *given: usual(*given) | {"scheme": "http"}  # type: ignore[method-assign]
    for _ in range(2):
        browser.get("/count")
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "secure=False" in warning.getMessage()


# --- the dict -----------------------------------------------------------------------------------


def test_session_is_a_dict_everywhere() -> None:
    async def fill(request: Request) -> Response:
        request.session.update(cart=["tea"], theme="dark")
        return Response()

    async def look(request: Request) -> Response:
        inner, session = request.scope["session"], request.session
        content = {"cart": ["tea"], "theme": "dark"}
        assert isinstance(session, dict)
        assert json.loads(json.dumps(inner)) == content
        assert inner == content == dict(inner) == {**inner} == copy.deepcopy(inner)
        assert dict.copy(inner) == content  # as C code sees it
        assert type(pickle.loads(pickle.dumps(inner))) is type(inner.copy()) is dict
        assert list(reversed(session)) == ["theme", "cart"]
        assert session | {"n": 1} == {**content, "n": 1}
        assert "tea" not in repr(session)
        return JSONResponse(session)

    browser = browse(fill, look, free)
    browser.get("/fill")
    assert browser.get("/look").json == {"cart": ["tea"], "theme": "dark"}


@pytest.mark.parametrize("version", ["0.52.1", "1.10.0"])
def test_session_is_opened_when_the_application_looks_at_it(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starlette.__version__", version)
    is_noted = version.startswith("1.")
    keeper = node(Clock(), None)

    async def look(request: Request) -> Response:
        inner, before = request.scope["session"], keeper.counts["opened"]
        # Before that, code in C sees no empty dict, which would be a visitor's, but one that it
        # cannot encode. Starlette before 1.0 does not say when the application looks at it.
        assert dict.__len__(inner) == 1
        assert ("n" in dict.keys(inner)) is not is_noted
        assert json.dumps(inner) == '{"n": 1}'  # calls a method
        assert keeper.counts["opened"] - before == is_noted
        return JSONResponse(dict.copy(inner))

    browser = browse(count, look, free, settings=keeper)
    browser.get("/count")
    assert browser.get("/look").json == {"n": 1}
    before = keeper.counts["opened"]
    browser.get("/free")
    assert keeper.counts["opened"] - before == (not is_noted)


def test_session_is_freed_with_its_request() -> None:
    sessions = []

    async def look(request: Request) -> Response:
        sessions.append(weakref.ref(sealed(request)))
        return JSONResponse(request.session)

    browser = browse(count, look)
    browser.get("/count")
    gc.disable()
    try:
        browser.get("/look")
        assert [session() for session in sessions] == [None]
    finally:
        gc.enable()


CHANGES: dict[str, Callable[[Any], object]] = {
    "assignment": lambda session: session.__setitem__("cart", ["rice"]),
    "nested": lambda session: session["cart"].append("rice"),
    "nested, by get": lambda session: session.get("cart").append("rice"),
    "nested, by items": lambda session: dict(session.items())["cart"].append("rice"),
    "nested, by values": lambda session: next(iter(session.values())).append("rice"),
    "nested, by a copy": lambda session: dict(session)["cart"].append("rice"),
    "nested, by a union": lambda session: (session | {})["cart"].append("rice"),
    "deletion": lambda session: session.__delitem__("cart"),
    "pop": lambda session: session.pop("cart"),
    "popitem": lambda session: session.popitem(),
    "clear": lambda session: session.clear(),
    "update": lambda session: session.update({"a": 1}, b=2),
    "setdefault": lambda session: session.setdefault("basket", []).append("rice"),
    "in place": lambda session: session.__ior__({"a": 1}),
    "no change": lambda session: (session.pop("none", 1), session.setdefault("cart"), len(session)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_way_to_change_a_dict_changes_the_session(name: str) -> None:
    known = {"cart": ["tea"], "theme": "dark"}

    async def fill(request: Request) -> Response:
        request.session.update(copy.deepcopy(known))
        return Response()

    async def change(request: Request) -> Response:
        CHANGES[name](request.session)
        return JSONResponse(request.session)

    browser = browse(fill, change, read)
    browser.get("/fill")
    expected = copy.deepcopy(known)
    CHANGES[name](expected)
    answer = browser.get("/change")
    assert answer.json == browser.get("/read").json == expected
    assert bool(answer.set_cookies) == (name != "no change")


def test_value_that_no_cookie_carries_raises_where_it_is_assigned() -> None:
    seen = []

    async def assign(request: Request) -> Response:
        session = request.session
        for value, error in ((object(), UnsupportedValue), ("x" * 9000, SessionTooLarge)):
            with pytest.raises(error):
                session["n"] = value
        seen.append((dict(session), "n" in session))
        return Response()

    assert not browse(assign).get("/assign").set_cookies
    assert seen == [({}, False)]


# --- logins -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_captured_cookie_is_refused_after_a_logout(backend: str, store: ScriptedStorage) -> None:
    keeper = node(Clock(), store)
    browser = browse(count, login, logout, who, settings=keeper, backend=backend)
    browser.get("/count")
    (line,) = browser.get("/login").set_cookies
    assert "; Max-Age=" in line
    assert browser.get("/count").json == {"n": 2}
    thief = ASGIBrowser(browser.application, backend)
    thief.jar = browser.jar.copy()
    assert thief.get("/who").json == "ann"
    assert browser.get("/logout").json == [{}, None]
    assert thief.get("/who").json is None


def test_dict_says_what_was_done_to_it_as_that_of_starlette() -> None:
    async def change(request: Request) -> Response:
        session = request.scope["session"]
        states = [(session.accessed, session.modified)]
        session.get("list")
        states.append((session.accessed, session.modified))
        session.setdefault("list", []).append(1)
        session.mark_modified()
        return JSONResponse([*states, (session.accessed, session.modified)])

    browser = browse(change)
    for _ in range(2):
        assert browser.get("/change").json == [[False, False], [True, False], [True, True]]


def test_sign_in_of_another_user_empties_the_dict() -> None:
    async def switch(request: Request) -> Response:
        sealed(request).subject = "eve"
        return JSONResponse(request.session)

    browser = browse(count, login, switch, who)
    for path in ("/login", "/count"):
        browser.get(path)
    assert browser.get("/switch").json == {}
    assert browser.get("/who").json == "eve"


def test_facts_about_a_session_are_there() -> None:
    async def facts(request: Request) -> Response:
        session = sealed(request)
        session.peek().check_size()
        return JSONResponse(
            [session.is_new, session.subject, session.persistent, session.refusal, session.withheld]
        )

    async def shorten(request: Request) -> Response:
        session = sealed(request)
        before, created_at = session.id, session.created_at
        session.regenerate()
        session.limit(idle=60)
        assert session.id != before
        return JSONResponse([created_at, session.expires_at])

    browser = browse(login, facts, shorten)
    assert browser.get("/facts").json == [True, None, None, None, None]
    browser.get("/login")
    assert browser.get("/facts").json == [False, "ann", True, None, None]
    created_at, expires_at = browser.get("/shorten").json
    assert expires_at == created_at + 12 * 3600


# --- what comes too late ------------------------------------------------------------------------


def stream(use: Callable[[Request], object], errors: list[type[Exception]]) -> View:
    async def streamed(request: Request) -> Response:
        async def pieces() -> Any:
            yield b"page"
            try:
                use(request)
            except Exception as error:
                errors.append(type(error))

        if request.query_params or request.headers.get("x-first"):
            request.session.get("n")
        return StreamingResponse(pieces())

    return streamed


def test_late_uses_raise_in_streams_and_background_tasks() -> None:
    errors: list[type[Exception]] = []
    first = (b"x-first", b"1")

    async def later(request: Request) -> Response:
        def write() -> None:
            with pytest.raises(LateWrite):
                request.session["n"] = 1
            errors.append(LateWrite)

        request.session.get("n")
        return JSONResponse(1, background=BackgroundTask(write))

    writes = stream(lambda request: request.scope["session"].update(n=1), errors)
    browse(writes).get("/streamed")
    browse(writes).get("/streamed", first)
    browse(stream(lambda request: request.session, errors)).get("/streamed")
    browse(stream(lambda request: sealed(request).subject, errors)).get("/streamed")
    browse(later).get("/later")
    assert errors == [LateWrite, LateWrite, LateRead, LateRead, LateWrite]
    errors.clear()
    browse(stream(lambda request: request.session["n"], errors)).get("/streamed", first)
    assert errors == [KeyError]


def test_late_change_inside_a_value_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def later(request: Request) -> Response:
        cart = request.session.setdefault("cart", ["tea"])
        return JSONResponse(1, background=BackgroundTask(cart.append, "rice"))

    browse(later).get("/later")
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "lost: cart" in error.getMessage()


# --- websockets ---------------------------------------------------------------------------------


def test_websocket_carries_the_cookie_with_its_acceptance() -> None:
    errors = []

    async def talk(socket: WebSocket) -> None:
        socket.session["n"] = socket.session.get("n", 0) + 1
        await socket.accept(headers=[(b"x-mine", b"1")])
        await socket.send_text(str(socket.session["n"]))
        try:
            socket.session["n"] = 0
        except LateWrite as error:
            errors.append(error)

    async def watch(socket: WebSocket) -> None:
        await socket.accept()
        # Not used before: there is no page that a cache could keep.
        await socket.send_text(f"{socket.session.get('n')} {sealed(socket).subject}")

    async def deny(socket: WebSocket) -> None:
        socket.session["n"] = 9
        await socket.send_denial_response(Response("no", 403))

    routes = [WebSocketRoute(f"/{each.__name__}", each) for each in (talk, watch, deny)]
    middleware = Middleware(SealedSessionMiddleware, node(Clock(), None))
    application = Starlette(routes=routes, middleware=[middleware])
    browser = ASGIBrowser(application)
    for expected in ("1", "2"):
        answer, received = browser.websocket("/talk")
        assert received == [expected]
        assert len(answer.set_cookies) == len(answer.all("x-mine")) == 1
    assert len(errors) == 2
    assert browser.websocket("/watch")[1] == ["2 None"]
    assert ASGIBrowser(application).websocket("/watch")[1] == ["None None"]


def test_logout_of_a_websocket_that_is_not_accepted_is_recorded(store: ScriptedStorage) -> None:
    shop, revoked = node(Clock(), store), list[int]()

    async def leave(socket: WebSocket) -> None:
        sealed(socket).subject = None
        await socket.close()
        revoked.append(shop.counts["revoked"])

    routes: list[Any] = [Route("/login", login), Route("/who", who)]
    application = Starlette(
        routes=[*routes, WebSocketRoute("/leave", leave)],
        middleware=[Middleware(SealedSessionMiddleware, shop)],
    )
    browser = ASGIBrowser(application)
    browser.get("/login")
    browser.websocket("/leave")
    assert revoked == [1]
    assert browser.get("/who").json is None


# --- the store ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_session_is_loaded_by_order_only_without_autoload(
    backend: str, store: ScriptedStorage
) -> None:
    async def lazily(request: Request) -> Response:
        scope_session = request.scope["session"]
        for use in (
            lambda: request.session,
            lambda: scope_session["n"],
            lambda: "n" in scope_session,
            lambda: scope_session.get("n"),
            lambda: sealed(request).subject,
            lambda: sealed(request).sign_in("eve"),
        ):
            with pytest.raises(SessionNotLoaded, match="load_session"):
                use()
        with pytest.raises(TypeError):
            json.dumps(scope_session)
        session = await load_session(request)
        assert session.parts is request.session
        return JSONResponse([request.session, session.subject])

    browser = browse(count, free, lazily, settings=node(Clock(), store), autoload=False)
    browser.get("/count")  # no cookie of ours, so there is nothing to load
    asked = len(store.calls)
    assert browser.get("/free").status == 200
    assert len(store.calls) == asked
    assert browser.get("/lazily").json == [{"n": 1}, None]
    only = browse(
        count, settings=node(Clock(), store), autoload=lambda scope: scope["path"] == "/count"
    )
    only.jar = browser.jar
    assert only.get("/count").json == {"n": 2}


def test_part_of_the_store_is_there_once_it_is_loaded(store: ScriptedStorage) -> None:
    async def fill(request: Request) -> Response:
        request.session.update(vault="gold", cart="tea")
        return JSONResponse(request.session)

    async def vault(request: Request) -> Response:
        session = request.session
        assert dict(session) == {"cart": "tea"}
        assert "vault" in session
        uses: list[Callable[[], object]]
        uses = [lambda: session["vault"], lambda: session.get("vault")]
        for use in uses:
            with pytest.raises(SessionNotLoaded, match=r"load_session\(request, 'vault'\)"):
                use()
        await load_session(request, "vault")
        return JSONResponse(session["vault"])

    async def forget(request: Request) -> Response:
        del request.session["vault"]
        return JSONResponse(request.session)

    browser = browse(fill, vault, forget, read, settings=node(Clock(), store))
    assert browser.get("/fill").json == {"vault": "gold", "cart": "tea"}
    assert browser.get("/vault").json == "gold"
    store.fail("read", context="sealedstate.part", times=None)
    with pytest.raises(StorageError):
        browser.get("/vault")
    store.recover()
    browser.get("/forget")
    assert browser.get("/read").json == {"cart": "tea"}


def test_lifespan_closes_what_the_middleware_has_opened(
    store: ScriptedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(store, "close", lambda: closed.append("store"))
    settings = Settings(
        keys=StaticKeys(RING), storage=store, accept_weak_store_for=["revocation"], clock=Clock()
    )

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for step in ("startup", "shutdown"):
            await send({"type": f"lifespan.{step}.complete"})

    async def run(given: Settings | Keeper) -> None:
        async def send(message: Any) -> None:
            closed.append(message["type"])

        middleware = SealedSessionMiddleware(application, given)
        await middleware({"type": "lifespan"}, None, send)  # type: ignore[arg-type]

    anyio.run(run, settings)
    assert closed == ["lifespan.startup.complete", "store", "lifespan.shutdown.complete"]
    closed.clear()
    anyio.run(run, Keeper(settings))
    assert "store" not in closed


# --- settings and stacks ------------------------------------------------------------------------


def test_keywords_of_starlette_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALEDSTATE_IDLE_LIFETIME", "60")
    middleware = SealedSessionMiddleware(
        nothing,
        keys=StaticKeys(RING),
        session_cookie="shop",
        max_age=14 * 86400,
        path="/shop",
        same_site="none",
        https_only=True,
        domain="example.org",
        partitioned=True,
    )
    settings = middleware.keeper.keeper.settings
    assert (settings.cookie_name, settings.cookie_path) == ("shop", "/shop")
    assert (settings.same_site, settings.secure, settings.partitioned) == ("None", True, True)
    assert (settings.cookie_domain, settings.persistent) == ("example.org", True)
    assert settings.idle_lifetime == settings.absolute_lifetime == 14 * 86400
    given = Settings(keys=StaticKeys(RING), realm="shop")
    changed = SealedSessionMiddleware(nothing, given, max_age=None, https_only=False).keeper.keeper
    assert (changed.settings.realm, changed.settings.secure) == ("shop", False)
    assert not changed.settings.persistent
    assert SealedSessionMiddleware(nothing, keys=StaticKeys(RING)).keeper.keeper.settings.secure


def test_wrong_keywords_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="LegacyReader"):
        SealedSessionMiddleware(nothing, secret_key="secret")
    with pytest.raises(ConfigurationError, match="storage"):
        SealedSessionMiddleware(nothing, keys=StaticKeys(RING), storrage="memory:")
    with pytest.raises(ConfigurationError, match="idle_lifetime"):
        SealedSessionMiddleware(nothing, node(Clock(), None), max_age=60)
    with pytest.raises(UsageError, match="SealedSessionMiddleware"):
        sealed({"type": "http"})


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"max_age": "3600"}, r"^max_age: .* got '3600'"),
        ({"max_age": True}, "^max_age: "),
        ({"max_age": 0}, "^max_age: "),
        ({"max_age": 60, "idle_lifetime": 60}, "^max_age: sets idle_lifetime"),
        ({"https_only": True, "secure": False}, "^https_only: .* secure"),
        ({"session_cookie": "a", "cookie_name": "b"}, "^session_cookie: .* cookie_name"),
        ({"autoload": "false"}, "^autoload: "),
        ({"scope_key": ""}, "^scope_key: "),
        ({"https_onli": False}, "did you mean 'https_only'"),
        ({"maxage": 1}, "did you mean 'max_age'"),
        ({"clok": 1}, r"there are (?!.*clock)"),
    ],
)
def test_mistakes_of_the_configuration_stop_the_start(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        SealedSessionMiddleware(nothing, keys=StaticKeys(RING), **given)


def test_mounted_applications_share_one_session() -> None:
    keeper = node(Clock(), None)
    inner = Starlette(
        routes=[Route("/count", count)], middleware=[Middleware(SealedSessionMiddleware, keeper)]
    )
    browser = ASGIBrowser(
        Starlette(
            routes=[Mount("/inner", inner), Route("/count", count)],
            middleware=[Middleware(SealedSessionMiddleware, keeper)],
        )
    )
    browser.get("/count")
    answer = browser.get("/inner/count")
    assert (answer.json, len(answer.set_cookies), answer.all("Vary")) == ({"n": 2}, 1, ["Cookie"])


@pytest.mark.parametrize(
    ("given", "key", "problem"),
    [({}, "other", "cookie_name"), ({"cookie_name": "other"}, "session", "scope_key")],
)
def test_two_sessions_of_a_request_are_not_confused(
    given: dict[str, Any], key: str, problem: str
) -> None:
    inner = SealedSessionMiddleware(nothing, node(Clock(), None, **given), scope_key=key)
    outer = SealedSessionMiddleware(inner, node(Clock(), None))
    with pytest.raises(ConfigurationError, match=problem):
        ASGIBrowser(outer).get("/")


def test_two_sessions_have_a_key_each() -> None:
    async def both(request: Request) -> Response:
        request.session["n"] = 1
        request.scope["device"]["n"] = 2
        sealed(request, "device").limit(persistent=True)
        return JSONResponse([request.session, request.scope["device"]])

    keeper = node(Clock(), None, cookie_name="device")
    device = Middleware(SealedSessionMiddleware, keeper, scope_key="device")
    usual = Middleware(SealedSessionMiddleware, node(Clock(), None))
    application = Starlette(routes=[Route("/both", both)], middleware=[device, usual])
    answer = ASGIBrowser(application).get("/both")
    assert len(answer.set_cookies) == 2
    assert answer.json == [{"n": 1}, {"n": 2}]

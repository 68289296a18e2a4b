"""The session as a dependency of FastAPI."""

from __future__ import annotations

import pytest

from sealedstate.testing import ScriptedStorage
from sealedstate_asgi import SealedSessionMiddleware
from tests.support.asgi import ASGIBrowser
from tests.support.jar import Clock
from tests.support.shop import node

pytest.importorskip("fastapi", reason="not installed: fastapi")

from anyio import from_thread
from fastapi import FastAPI, Request, WebSocket

from sealedstate_asgi.fastapi import Sealed


def make_application() -> FastAPI:
    application = FastAPI()
    application.add_middleware(
        SealedSessionMiddleware, settings=node(Clock(), ScriptedStorage(Clock()))
    )

    @application.get("/login")
    async def login(session: Sealed) -> str:
        session.sign_in("ann")
        return session.id

    @application.get("/me")
    def me(session: Sealed, request: Request) -> dict[str, object]:
        request.session["seen"] = request.session.get("seen", 0) + 1
        return {"user": session.subject, **request.session}

    @application.get("/logout")
    def logout(session: Sealed) -> None:
        from_thread.run(session.invalidate)

    @application.websocket("/talk")
    async def talk(socket: WebSocket, session: Sealed) -> None:
        await socket.accept()
        await socket.send_text(str(session.subject))

    return application


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_dependency_is_the_session_in_every_kind_of_endpoint(backend: str) -> None:
    browser = ASGIBrowser(make_application(), backend)
    assert browser.get("/me").json == {"user": None, "seen": 1}
    browser.get("/login")
    assert browser.get("/me").json == {"user": "ann", "seen": 2}
    assert browser.websocket("/talk")[1] == ["ann"]
    captured = browser.jar.copy()
    browser.get("/logout")
    assert browser.get("/me").json == {"user": None, "seen": 1}
    browser.jar = captured
    assert browser.get("/me").json == {"user": None, "seen": 1}
    assert "session" not in make_application().openapi()["paths"]["/me"]["get"].get(
        "parameters", []
    )

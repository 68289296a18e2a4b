"""Sessions of Litestar's own backends are taken over."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("litestar", reason="not installed: litestar")
pytest.importorskip("httpx", reason="not installed: httpx")
pytest.importorskip("cryptography", reason="not installed: cryptography")

from litestar import Litestar, Request, get
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.testing import TestClient

from sealedstate import Key, LegacyReader
from sealedstate.keyring import export_lookup
from sealedstate_litestar import SealedSessionConfig, sealed

URL = "https://testserver.local"
SECRET = os.urandom(32)


@get("/login")
async def login(request: Request[Any, Any, Any]) -> None:
    request.session["user"] = "ann"
    request.session["note"] = os.urandom(int(request.query_params["size"])).hex()


@get("/show")
async def show(request: Request[Any, Any, Any]) -> list[Any]:
    return [request.session.get("user"), len(request.session.get("note", ""))]


@get("/who")
async def who(request: Request[Any, Any, Any]) -> str | None:
    return sealed(request).subject


@get("/logout")
async def logout(request: Request[Any, Any, Any]) -> None:
    request.clear_session()


def client_of(middleware: Any) -> TestClient[Any]:
    handlers = [login, show, who, logout]
    app = Litestar(handlers, middleware=[middleware], openapi_config=None, logging_config=None)
    return TestClient(app, URL)


@pytest.mark.parametrize("size", [10, 4000])  # the latter in three cookies
def test_nobody_is_signed_out_by_the_move(tmp_path: Path, size: int) -> None:
    with client_of(CookieBackendConfig(secret=SECRET).middleware) as old:
        old.get("/login", params={"size": size})
        cookies = dict(old.cookies)
    header = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    assert len(cookies) == (3 if size == 4000 else 1)
    config = SealedSessionConfig(
        keys=[Key.generate(os.urandom).export(), export_lookup(os.urandom(32))],
        storage=f"sqlite:{tmp_path / 'store.db'}",
        legacy=LegacyReader("litestar", SECRET, datetime(2999, 1, 1, tzinfo=UTC), subject="user"),
    )
    with client_of(config.middleware) as new:
        answer = new.get("/who", headers=header)
        assert answer.text == "ann"
        lines = answer.headers.get_list("set-cookie")
        assert {line.partition("=")[0] for line in lines if "Max-Age=0" in line} == {*cookies}
        assert new.get("/show").json() == ["ann", 2 * size]
        assert config.keeper.keeper.counts["adopted"] == 1
        new.get("/logout")
        assert new.get("/show", headers=header).json() == [None, 0]

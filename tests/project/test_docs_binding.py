"""The code of docs/binding.md runs and does what the text says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="not installed: cryptography")

from examples.shop.keys import make_ring
from sealedstate import Session, Settings
from sealedstate.binding import CHALLENGE_SECONDS
from sealedstate.headers import set_cookie_bytes, with_session
from sealedstate.testing import ManualClock
from tests.support.bound_browser import REFRESH, REGISTER, DeviceKey, challenge_of
from tests.support.documents import Document
from tests.support.jar import Jar, keeper

DOCUMENT = Document("binding.md")


def test_documented_settings_and_defaults_are_those_of_the_code() -> None:
    defaults = Settings(keys="env:")
    table = DOCUMENT.text.partition("| setting | default |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table, re.MULTILINE))
    assert rows == {
        "binding_path": "none",
        "bound_lifetime": f"{defaults.bound_lifetime} s",
        "on_unbound": f'`"{defaults.on_unbound}"`',
    }
    assert f"within {CHALLENGE_SECONDS} s" in DOCUMENT.text


def test_documented_application_offers_to_bind_a_sign_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_ring(tmp_path / "keys.json", longest_lifetime=12 * 3600)

    def page(environ: Any, start_response: Any) -> list[bytes]:
        environ["sealedstate.session"].subject = "ann"
        start_response("200 OK", [])
        return []

    names: dict[str, Any] = {"application": page}
    exec(compile(DOCUMENT.block("code"), "binding.md", "exec"), names)
    fields: list[tuple[str, str]] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.url_scheme": "https"}
    list(names["application"](environ, lambda _, headers: fields.extend(headers)))
    names["application"].keeper.deployment.close()
    assert "Secure-Session-Registration" in dict(fields)


def test_documented_adapter_binds_and_renews() -> None:
    def show_page(session: Session, request: Any) -> list[tuple[str, str]]:
        if request.path == "/sign-in":
            session.subject = "ann"
        seen.append((session.subject, session.is_bound))
        return []

    names: dict[str, Any] = {
        "keeper": keeper(ManualClock(), binding_path="/session-binding"),
        "show_page": show_page,
        "with_session": with_session,
        "set_cookie_bytes": set_cookie_bytes,
    }
    exec(compile(DOCUMENT.block("own"), "binding.md", "exec"), names)
    handle: Callable[[Any], list[tuple[str, str]]] = names["handle"]
    jar, key, seen = Jar(), DeviceKey(), list[tuple[str | None, bool]]()

    def send(path: str, proof: str | None = None) -> dict[str, str]:
        sent = {"cookie": jar.header(), "host": "app.example", "secure-session-response": proof}
        fields = handle(SimpleNamespace(path=path, method="POST", headers=sent))
        jar.receive([value for name, value in fields if name == "Set-Cookie"])
        return dict(fields)

    offer = send("/sign-in")["Secure-Session-Registration"]
    send(REGISTER, key.prove(challenge_of(offer), is_new=True))
    challenge = challenge_of(send(REFRESH)["Secure-Session-Challenge"])
    assert "Set-Cookie" in send(REFRESH, key.prove(challenge))
    send("/")
    assert seen == [("ann", False), ("ann", True)]

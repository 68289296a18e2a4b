"""docs/tutorial.md: each step of the shop does what the text says, on two nodes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from sealedstate.cli import main
from tests.support.documents import DOCS, Document

TUTORIAL = Document("tutorial.md")
STEPS = ("hello", "cart", "login", "logout")


def start_node() -> Any:
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile("\n".join(map(TUTORIAL.block, STEPS)), "tutorial.md", "exec"), names)
    return names["app"]


def copy_cookies(client: FlaskClient, app: Any) -> FlaskClient:
    """A thief's client: the same cookies, at the node of `app`."""
    copy: FlaskClient = app.test_client()
    for cookie in client._cookies.values():  # type: ignore[union-attr]
        copy.set_cookie(cookie.key, cookie.value, secure=True)
    return copy


def get(client: FlaskClient, path: str) -> str:
    return str(client.get(path, base_url="https://localhost").text)


def test_shop_does_at_each_step_what_the_text_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # As `flask sealedstate keys init` does, for Flask's permanent sessions.
    monkeypatch.setenv("SEALEDSTATE_LONGEST_LIFETIME", f"{31 * 86400}")
    assert main(["keys", "init", "keys.json"]) == 0
    one, two = start_node(), start_node()
    client = one.test_client()
    assert [get(client, "/") for _ in range(2)] == ["Visits: 1\n", "Visits: 2\n"]

    def post(path: str, **form: str) -> str:
        answer = client.post(path, data=form, base_url="https://localhost", follow_redirects=True)
        return str(answer.text)

    for article in ("tea", "rice"):
        cart = post("/cart", article=article)
    assert cart == "tea, rice\n"
    assert post("/login", name="ann", password="tee-time") == "no\n"
    assert post("/login", name="ann", password="tea-time") == "ann\n"
    assert get(client, "/cart") == "tea, rice\n"
    stolen = copy_cookies(client, two)
    assert get(stolen, "/me") == "ann\n"
    assert post("/logout") == "a guest\n"
    assert get(stolen, "/me") == "a guest\n"
    for app in (one, two):
        app.extensions["sealedstate"].deployment.close()


def test_each_word_of_the_glossary_is_there_once_and_in_order() -> None:
    words = re.findall(r"^\| ([^|]+) \| ", (DOCS / "glossary.md").read_text("utf-8"), re.MULTILINE)
    assert words[2:] == sorted({*words[2:]}, key=str.casefold)

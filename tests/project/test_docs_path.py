"""docs/path.md: its application answers, and its table has every finding."""

from __future__ import annotations

import ast
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from sealedstate import Keeper, Key, Settings
from sealedstate.path import PathPages
from sealedstate.path._engine import judge_cross_site
from tests.support.client import ask
from tests.support.documents import ROOT, Document

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

DOCUMENT = Document("path.md")


def test_documented_application_is_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [b"another page"]

    monkeypatch.setenv("SEALEDSTATE_KEYS", Key.generate(os.urandom).export())
    names: dict[str, Any] = {"application": application}
    exec(compile(DOCUMENT.block("wsgi"), "path.md", "exec"), names)
    link = PathPages(Keeper(Settings(keys="env:"))).link("http://localhost/sealedstate/path")
    parts = urlsplit(link)
    answer = ask(names["application"], f"{parts.path}?{parts.query}")
    assert b"Do your cookies arrive?" in answer.body
    assert ask(names["application"], "/").body == b"another page"


def test_every_finding_is_documented() -> None:
    tree = ast.parse((ROOT / "sealedstate/path/_engine.py").read_text("utf-8"))
    codes = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "_note"
        and isinstance(node.args[0], ast.Constant)
    }
    assert codes <= documented("finding")


def test_every_problem_of_a_form_of_another_site_is_documented() -> None:
    ignored = {"kept": "lax", "post": "lax", "redirect": ""}
    seen: list[dict[str, str]] = [{"answer": "403"}, {"site": "same-site"}, ignored]
    codes = {code for each in seen for code in judge_cross_site(each)}
    assert codes == documented("problem")


def documented(column: str) -> set[str]:
    table = DOCUMENT.text[DOCUMENT.text.index(f"| {column} | what it means |") :]
    rows = re.findall(r"^\| (.*?) \|", table.partition("\n\n")[0], re.M)
    return set(re.findall(r"`([\w-]+)`", "\n".join(rows)))

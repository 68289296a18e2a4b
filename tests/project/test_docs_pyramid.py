"""docs/pyramid.md: its application works as the text says."""

from __future__ import annotations

import configparser
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyramid", reason="not installed: pyramid")
pytest.importorskip("webtest", reason="not installed: webtest")

from pyramid.config import Configurator
from webtest import TestApp as Browser

from sealedstate.cli import main
from tests.support.documents import Document

DOCUMENT = Document("pyramid.md")


def test_documented_application_and_its_test_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init", "keys.json"]) == 0
    (tmp_path / "shop.py").write_text(DOCUMENT.block("policy") + DOCUMENT.block("app"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    names: dict[str, Any] = vars(importlib.import_module("shop"))
    ini = configparser.ConfigParser()
    ini.read_string("[app:main]\n" + DOCUMENT.block("ini"))
    app = names["app"] = names["main"]({}, **ini["app:main"])
    exec(compile(DOCUMENT.block("test"), "pyramid.md", "exec"), names)
    browser = names["browser"]
    captured = dict(browser.cookies)
    another = Browser(app, {"wsgi.url_scheme": "https"})
    another.post("/login", {"name": "jdoe"})
    browser.post("/logout")
    for name, value in captured.items():
        browser.set_cookie(name, value)
    assert browser.get("/").json == {"user": None, "visits": 1, "messages": []}
    browser.post("/login", {"name": "jdoe"})
    browser.post("/logout-everywhere")
    assert another.get("/").json["user"] is None
    app.registry["sealedstate"].deployment.close()


def test_documented_devices_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init", "keys.json"]) == 0
    (tmp_path / "shop_devices.py").write_text(DOCUMENT.block("devices"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shop_devices", raising=False)
    names: dict[str, Any] = vars(importlib.import_module("shop_devices"))
    ini = configparser.ConfigParser()
    ini.read_string("[app:main]\n" + DOCUMENT.block("ini"))

    def log_in(request: Any) -> str:
        request.session["auth.userid"] = "jdoe"
        return "welcome"

    with Configurator(settings=dict(ini["app:main"])) as config:
        config.include("sealedstate_pyramid")
        config.include(names["add_devices"])
        for path, view in {
            "/login": log_in,
            "/devices": names["show_devices"],
            "/devices/end-others": names["end_other_devices"],
            "/devices/{device}/end": names["end_device"],
        }.items():
            config.add_route(path, path)
            config.add_view(view, route_name=path, renderer="json")
        app = config.make_wsgi_app()
    one, *others = (Browser(app, {"wsgi.url_scheme": "https"}) for _ in range(7))
    for browser in (*others, one):
        browser.post("/login")
    listed = one.get("/devices").json
    assert sorted(listed.values()) == [False] * 4 + [True]
    for id, is_current in listed.items():
        one.post(f"/devices/{id}/end", status=404 if is_current else 302)
    assert list(one.get("/devices").json.values()) == [True]
    others[0].post("/login")
    one.post("/devices/end-others")
    assert list(one.get("/devices").json.values()) == [True]
    app.registry["sealedstate"].deployment.close()

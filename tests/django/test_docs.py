"""docs/django.md agrees with the code: its settings, views, tests and checks."""

from __future__ import annotations

import os
import re
import sys
import types
import unittest
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.urls import path

from sealedstate import Key
from sealedstate_django import _checks, devices, keeper
from sealedstate_django.test import Client
from tests.django.conftest import Change
from tests.support.django_site import MIDDLEWARE, PROJECT
from tests.support.documents import Document

DJANGO = Document("django.md")
BACKEND = "django.contrib.auth.backends.ModelBackend"
STOCK = "django.contrib.sessions.middleware.SessionMiddleware"


def run_block(mark: str, **names: Any) -> dict[str, Any]:
    names["__name__"] = "documented"
    exec(compile(DJANGO.block(mark), "django.md", "exec"), names)
    return names


@pytest.fixture
def site(change: Change, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The views of the page, under their names."""
    views = run_block("views")
    module: Any = types.ModuleType("documented_site")
    names = ("add", "remember", "sign_out_everywhere", "add_later")
    module.urlpatterns = [path(name, views[name]) for name in names]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    change(ROOT_URLCONF=module.__name__)
    return views


def test_documented_settings_are_those_of_a_project(
    change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = [STOCK, *MIDDLEWARE[1:]]
    apps = [each for each in PROJECT["INSTALLED_APPS"] if each != "sealedstate_django"]
    found = run_block("settings", BASE_DIR=tmp_path, INSTALLED_APPS=apps, MIDDLEWARE=stock)
    assert found["MIDDLEWARE"] == MIDDLEWARE
    assert found["INSTALLED_APPS"] == PROJECT["INSTALLED_APPS"]
    monkeypatch.setenv("SEALEDSTATE_KEK", Key.generate(os.urandom).export())
    table = {"SEALEDSTATE": found["SEALEDSTATE"], "SEALEDSTATE_LEGACY_UNTIL": "2999-01-01"}
    change(**table)
    from django.core.management import ManagementUtility

    with pytest.raises(SystemExit) as end:
        ManagementUtility(["manage.py", "sealedstate", "keys", "init"]).execute()
    assert end.value.code == 0
    assert keeper().health() == {"keys": None, "store": None}


def test_documented_views_do_what_they_say(site: dict[str, Any], somebody: User) -> None:
    clients = [Client(), Client()]
    for client in clients:
        client.force_login(somebody)
    first, second = clients
    key = first.get("/add").content.decode()
    first.get("/add_later")
    assert (first.session["cart"], first.session.session_key) == (["tea", "milk"], key)
    first.get("/remember")
    assert first.session.get_expiry_age() == 7 * 86400
    second.get("/sign_out_everywhere")
    assert "cart" not in first.session


def test_documented_test_passes(site: dict[str, Any]) -> None:
    case = run_block("tests")["CartTest"]
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert (result.testsRun, result.errors, result.failures) == (1, [], [])


def test_every_check_is_documented() -> None:
    source = Path(_checks.__file__).read_text()
    calls = re.findall(r"_(error|warning)\((\d)", source)
    ids = {f"sealedstate.{kind[0].upper()}{int(number):03}" for kind, number in calls}
    assert ids == set(re.findall(r"\| `(sealedstate\.\w+)` \|", DJANGO.text))


def test_documented_devices_work(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = run_block("devices")
    setting = run_block("devices-setting")["SEALEDSTATE_DEVICES"]

    def sign_in(request: HttpRequest) -> HttpResponse:
        login(request, User.objects.get_or_create(username="eve")[0], BACKEND)
        request.session["device"] = request.headers["User-Agent"]
        return HttpResponse()

    module: Any = types.ModuleType("documented_devices")
    module.name_of = shown["name_of"]
    module.urlpatterns = [
        path("sign-in", sign_in),
        path("devices", shown["show_devices"]),
        path("devices/end-others", shown["end_other_devices"]),
        path("devices/<str:device>/end", shown["end_device"]),
    ]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert setting["where"] == "shop.devices.name_of"
    setting = {**setting, "where": "documented_devices.name_of"}
    change(ROOT_URLCONF=module.__name__, SEALEDSTATE_DEVICES=setting)
    clients = {name: Client(headers={"User-Agent": name}) for name in ("Firefox", "Chrome", "Curl")}
    for client in clients.values():
        client.get("/sign-in")
    first = clients["Firefox"]

    def listed(client: Client) -> dict[str, Any]:
        return {each["device"]: each for each in client.get("/devices").json()["devices"]}

    found = listed(first)
    assert {name: each["this"] for name, each in found.items()} == {
        "Firefox": True,
        "Chrome": False,
        "Curl": False,
    }
    client = clients["Chrome"]
    assert first.post(f"/devices/{found['Firefox']['id']}/end").status_code == 404
    first.post(f"/devices/{found['Chrome']['id']}/end")
    assert client.get("/devices").status_code == 302
    assert set(listed(first)) == {"Firefox", "Curl"}
    first.post("/devices/end-others")
    assert set(listed(first)) == {"Firefox"}
    for _ in range(6):
        Client(headers={"User-Agent": "Edge"}).get("/sign-in")
    assert len(devices().list(str(User.objects.get(username="eve").pk))) == 5

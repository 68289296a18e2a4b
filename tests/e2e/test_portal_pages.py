"""Every page of the demo portal renders, in process and in every profile."""

from __future__ import annotations

import re
from pathlib import Path

from werkzeug.test import Client

from examples.portal.app import make_application
from examples.portal.resources import PortalResources
from sealedstate import PROFILES

PAGES = ("", "services", "keys", "terms")
HERE = "http://127.0.0.1"


def test_every_page_of_the_portal_renders(tmp_path: Path) -> None:
    client = Client(make_application(PortalResources(tmp_path / "var"), "portable"))

    def page(path: str) -> str:
        response = client.get(path, base_url="http://127.0.0.1", follow_redirects=True)
        assert response.status_code == 200, path
        return response.text

    def post(action: str, **form: str) -> None:
        token = re.search(r'name="csrf" value="([^"]+)"', page("/portable/"))
        assert token is not None
        response = client.post(
            f"/portable/{action}",
            data={"csrf": token[1], **form},
            base_url="http://127.0.0.1",
            follow_redirects=True,
        )
        assert response.status_code == 200, action

    assert "Sign in" in page("/")
    post("sign-in", name="Ada Lovelace")
    post("add-services", count="20")
    post("rotate-keys")
    for profile in PROFILES:
        for name in PAGES:
            assert "Ada Lovelace" in page(f"/{profile}/{name}"), (profile, name)
    post("sign-out")
    assert "Ada Lovelace" not in page("/portable/")


def test_terms_are_accepted_once_in_each_profile_and_withdrawn(tmp_path: Path) -> None:
    client = Client(make_application(PortalResources(tmp_path / "var"), "portable"))

    def page(path: str, **form: str) -> str:
        response = client.open(
            path, method="POST" if form else "GET", base_url=HERE, data=form, follow_redirects=True
        )
        assert response.status_code == 200, path
        return response.text

    def hidden(name: str, text: str) -> str:
        found = re.search(rf'name="{name}" value="([^"]+)"', text)
        assert found is not None
        return found[1]

    def sign_in() -> None:
        page("/portable/sign-in", csrf=hidden("csrf", page("/portable/")), name="Ada")

    sign_in()
    form = page("/portable/terms")
    assert "You have not agreed yet" in form
    fields = {"ticket": hidden("ticket", form), "purpose": "<demo>", "news": "on"}
    for _ in range(2):  # a double click
        agreed = page("/portable/terms", **fields)
        assert "You agreed to the terms." in agreed
        assert re.search(r"You agreed at [\d:]+\. Purpose:\s+&lt;demo&gt;\. News: yes", agreed)
    assert ", to another text. Purpose" in page("/tight/terms")
    sign_in_form = page("/portable/terms")
    page("/portable/regenerate", csrf=hidden("csrf", sign_in_form))
    before = fields | {"ticket": hidden("ticket", sign_in_form), "purpose": "other"}
    again = page("/portable/terms", **before)
    assert 'id="problem"' in again
    assert 'value="other"' in again
    assert "&lt;demo&gt;. News" in again
    csrf = hidden("csrf", again)
    assert "You have not agreed yet" in page("/portable/withdraw-terms", csrf=csrf)

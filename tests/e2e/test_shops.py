"""The shops on Flask, FastAPI and Django, as several browsers use them.

The pages of the first two are asked in process; every shop is started as a process, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Protocol
from urllib.parse import urlencode

import anyio
import pytest

from examples.shop.browsers import describe_browser
from examples.shop.goods import MAX_DEVICES
from tests.support.client import Answer
from tests.support.example_processes import Example, fail_to_start, run_example
from tests.support.installed import need_driver

CHROME = "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML) Chrome/140.0.0.0 Safari/537.36"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
SAFARI = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Safari/604.1"
DAY = 86400


class Shop(Protocol):
    """Answers a request for a path."""

    def __call__(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None, /
    ) -> Answer: ...


def open_flask(var: Path) -> Iterator[Shop]:
    from examples.flask.app import make_app

    client = make_app(var).test_client(use_cookies=False)

    def ask(method: str, path: str, headers: dict[str, str], body: bytes | None) -> Answer:
        with client.open(path, method=method, headers=headers, data=body) as answer:
            return Answer(answer.status_code, list(answer.headers), answer.data)

    yield ask


def open_fastapi(var: Path) -> Iterator[Shop]:
    import httpx

    from examples.fastapi.app import make_app

    transport = httpx.ASGITransport(make_app(var))

    async def work(
        method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> httpx.Response:
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", trust_env=False
        ) as client:
            return await client.request(method, path, headers=headers, content=body)

    def ask(method: str, path: str, headers: dict[str, str], body: bytes | None) -> Answer:
        answer = anyio.run(work, method, path, headers, body)
        return Answer(answer.status_code, answer.headers.multi_items(), answer.content)

    yield ask


def open_django(var: Path) -> Iterator[Shop]:
    with run_example("django", var) as example:
        yield partial(ask_process, port_of(example))


OPEN = {"flask": open_flask, "fastapi": open_fastapi, "django": open_django}


def need_framework(name: str) -> None:
    """Skip the test of a shop whose framework or server is not installed."""
    need_driver(name, "uvicorn" if name == "fastapi" else "waitress")


def ask_process(
    port: int, method: str, path: str, headers: dict[str, str], body: bytes | None
) -> Answer:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.getheaders(), answer.read())
    finally:
        connection.close()


def port_of(example: Example) -> int:
    (line,) = example.read_lines(1)
    (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)/", line)
    return int(port)


class Visitor:
    """A browser at the shop, which presses buttons of the page that it sees."""

    def __init__(self, shop: Shop, agent: str = FIREFOX) -> None:
        self.shop, self.agent, self.text, self.status = shop, agent, "", 0
        self.cookies: dict[str, str] = {}
        self.line = ""
        self.open("/")

    def open(self, path: str, form: dict[str, str] | None = None) -> Visitor:
        headers = {
            "Host": "localhost",
            "User-Agent": self.agent,
            "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
        }
        method, body = "GET", None
        if form is not None:
            method, body = "POST", urlencode(form).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        answer = self.shop(method, path, headers, body)
        self.text, self.status = answer.body.decode(), answer.status
        for line in answer.set_cookies:
            ((name, cookie),) = SimpleCookie(line).items()
            self.cookies.pop(name, None)
            if cookie.value:
                self.cookies[name] = cookie.value
            self.line = line if name == "shop" else self.line
        places = answer.all("Location")
        return self.open(places[0]) if places else self

    def press(self, path: str, **form: str) -> Visitor:
        found = re.search(r'name="(csrf\w*)" value="([^"]+)"', self.text)
        assert found is not None, self.text
        return self.open(path, {found[1]: found[2], **form})

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


@pytest.fixture(
    scope="module", params=["flask", "fastapi", pytest.param("django", marks=pytest.mark.server)]
)
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    need_framework(request.param)
    yield from OPEN[request.param](tmp_path_factory.mktemp("shop"))


def test_cart_stays_over_a_sign_in_and_ends_with_a_sign_out(shop: Shop) -> None:
    visitor = Visitor(shop)
    visitor.press("/add-to-cart", item="Fountain pen").press("/add-to-cart", item="Fountain pen")
    assert "2 × 39.00" in visitor.text
    assert "Fountain pen is in your cart." in visitor.text
    visitor.sign_in("Eve")
    assert (visitor.user, "78.00 EUR" in visitor.text) == ("Eve", True)
    thief = Visitor(shop)
    thief.cookies = dict(visitor.cookies)
    assert "You are signed out." in visitor.press("/sign-out").text
    assert (visitor.user, "78.00 EUR" in visitor.text) == ("a visitor", False)
    assert thief.user == "a visitor"


def test_remembered_visitor_has_a_cookie_that_outlives_the_browser(shop: Shop) -> None:
    for form, is_remembered in (({}, False), ({"remember": "yes"}, True)):
        visitor = Visitor(shop).sign_in("Dan", **form)
        found = re.search(r"Max-Age=(\d+)", visitor.line)
        assert (found is not None) == is_remembered
        assert found is None or int(found[1]) > 29 * DAY
        remembered = "on this device" if is_remembered else "until you close the browser"
        assert f'id="remembered">{remembered}<' in visitor.text


def test_user_ends_one_device_all_others_and_all(shop: Shop) -> None:
    first, second, third = (
        Visitor(shop, agent).sign_in("Ann") for agent in (FIREFOX, CHROME, SAFARI)
    )
    stranger = Visitor(shop).sign_in("Joe")
    assert set(stranger.devices) == {"Firefox on Linux"}
    devices = first.devices
    assert set(devices) == {"Firefox on Linux", "Chrome on Windows", "Safari on iPhone"}
    assert devices["Firefox on Linux"] == ""
    assert stranger.press(devices["Chrome on Windows"]).status == 404
    assert "Chrome on Windows is signed out." in first.press(devices["Chrome on Windows"]).text
    assert "signed out, here or on another device" in second.open("/").text
    assert (second.user, third.user) == ("a visitor", "Ann")
    third.open("/devices").press("/devices/end-others")
    assert (first.user, set(third.devices)) == ("a visitor", {"Safari on iPhone"})
    first.sign_in("Ann").press("/sign-out-everywhere")
    stranger.open("/")
    assert (first.user, third.user, stranger.user) == ("a visitor", "a visitor", "Joe")


def test_device_that_was_last_used_longest_ago_makes_room(shop: Shop) -> None:
    visitors = [Visitor(shop, f"Browser{number}/1").sign_in("Pat") for number in range(6)]
    assert len(visitors[-1].devices) == MAX_DEVICES
    assert [visitor.user for visitor in visitors].count("a visitor") == 1
    assert visitors[-1].user == "Pat"


def test_form_without_the_token_and_unknown_goods_are_refused(shop: Shop) -> None:
    visitor = Visitor(shop)
    assert visitor.open("/add-to-cart", {"item": "Fountain pen"}).status == 403
    assert "Back to the shop" in visitor.text
    assert visitor.open("/").press("/add-to-cart", item="Gold").status == 404
    assert "Back to the shop" in visitor.text
    assert "Your name" in visitor.open("/devices").text
    assert visitor.open("/sign-out", {}).status == 403
    assert visitor.open("/sign-in").press("/sign-in", name=" \x07 ").status == 200
    assert visitor.user == "a visitor"
    assert visitor.open("/style.css").status == 200


def test_browsers_have_short_names() -> None:
    assert describe_browser("") == "A browser"
    assert describe_browser("<b>Bot</b>/1") == "bBot"
    assert describe_browser(f"{CHROME} Edg/140.0") == "Edge on Windows"


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize("name", OPEN)
def test_shop_starts_again_with_its_sessions(name: str, tmp_path: Path) -> None:
    need_framework(name)
    cookies: dict[str, str] = {}
    for _ in range(2):
        with run_example(name, tmp_path) as example:
            visitor = Visitor(partial(ask_process, port_of(example)))
            if cookies:
                visitor.cookies = cookies
                assert visitor.user == "Ann"
            cookies = visitor.sign_in("Ann").cookies


@pytest.mark.server
@pytest.mark.parametrize("name", OPEN)
def test_shop_that_cannot_start_says_why(name: str, tmp_path: Path) -> None:
    need_framework(name)
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "keys.json").write_text("{")
    assert "The shop can't start:" in fail_to_start(name, tmp_path / "var")

"""The shop on FastAPI: its pages in process, as several browsers use them, and as a process."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="not installed: fastapi")
pytest.importorskip("uvicorn", reason="not installed: uvicorn")

import anyio
import httpx
from fastapi import FastAPI

from examples.fastapi.app import MAX_DEVICES, describe_browser, make_app
from tests.support.client import send
from tests.support.example_processes import fail_to_start, run_example

CHROME = "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML) Chrome/140.0.0.0 Safari/537.36"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
SAFARI = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Safari/604.1"


class Visitor:
    """A browser at the shop, which presses buttons of the page that it sees."""

    def __init__(self, shop: FastAPI, agent: str = FIREFOX) -> None:
        transport = httpx.ASGITransport(shop)
        self.client = partial(
            httpx.AsyncClient, transport=transport, follow_redirects=True, trust_env=False
        )
        self.cookies = httpx.Cookies()
        self.agent = agent
        self.text = ""
        self.lines: list[str] = []
        self.open("/")

    def ask(self, method: str, path: str, **form: str) -> httpx.Response:
        async def work() -> httpx.Response:
            async with self.client(base_url="http://localhost", cookies=self.cookies) as client:
                agent = {"User-Agent": self.agent}
                answer = await client.request(method, path, data=form or None, headers=agent)
                self.cookies = client.cookies
                for each in (*answer.history, answer):
                    self.lines += each.headers.get_list("set-cookie")
                return answer

        return anyio.run(work)

    def open(self, path: str) -> Visitor:
        self.text = self.ask("GET", path).text
        return self

    def press(self, path: str, **form: str) -> Visitor:
        token = re.search(r'name="csrf" value="([^"]+)"', self.text)
        assert token is not None
        answer = self.ask("POST", path, csrf=token[1], **form)
        assert answer.status_code == 200, answer.text
        self.text = answer.text
        return self

    def sign_in(self, name: str, **form: str) -> Visitor:
        return self.open("/sign-in").press("/sign-in", name=name, **form)

    @property
    def user(self) -> str:
        found = re.search(r'id="owner">([^<]+)<', self.open("/").text)
        assert found is not None
        return found[1]

    @property
    def devices(self) -> dict[str, str]:
        """The path that ends each device, by its name; empty for this device."""
        rows = re.findall(
            r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', self.open("/devices").text, re.DOTALL
        )
        ends = {name: re.search(r'formaction="([^"]+)"', row) for name, row in rows}
        return {name: "" if end is None else end[1] for name, end in ends.items()}


@pytest.fixture
def shop(tmp_path: Path) -> FastAPI:
    return make_app(tmp_path / "var")


def test_cart_stays_over_a_sign_in_and_ends_with_a_sign_out(shop: FastAPI) -> None:
    visitor = Visitor(shop)
    visitor.press("/add-to-cart", item="Fountain pen").press("/add-to-cart", item="Fountain pen")
    assert "2 × 39.00" in visitor.text
    assert "Fountain pen is in your cart." in visitor.text
    visitor.sign_in("Ann")
    assert (visitor.user, "78.00 EUR" in visitor.text) == ("Ann", True)
    assert "You are signed out." in visitor.press("/sign-out").text
    assert (visitor.user, "78.00 EUR" in visitor.text) == ("a visitor", False)


def test_remembered_visitor_has_a_cookie_that_outlives_the_browser(shop: FastAPI) -> None:
    for form, seconds in (({}, None), ({"remember": "yes"}, 30 * 86400)):
        visitor = Visitor(shop).sign_in("Ann", **form)
        found = re.search(r"Max-Age=(\d+)", visitor.lines[-1])
        assert (None if found is None else int(found[1])) == seconds


def test_user_ends_one_device_all_others_and_all(shop: FastAPI) -> None:
    first, second, third = (
        Visitor(shop, agent).sign_in("Ann") for agent in (FIREFOX, CHROME, SAFARI)
    )
    stranger = Visitor(shop).sign_in("Joe")
    assert set(stranger.devices) == {"Firefox on Linux"}
    devices = first.devices
    assert set(devices) == {"Firefox on Linux", "Chrome on Windows", "Safari on iPhone"}
    assert devices["Firefox on Linux"] == ""
    with pytest.raises(AssertionError, match="Not Found"):
        stranger.press(devices["Chrome on Windows"])
    assert "Chrome on Windows is signed out." in first.press(devices["Chrome on Windows"]).text
    assert "signed out, here or on another device" in second.open("/").text
    assert (second.user, third.user) == ("a visitor", "Ann")
    third.press("/devices/end-others")
    assert (first.user, set(third.devices)) == ("a visitor", {"Safari on iPhone"})
    first.sign_in("Ann").press("/sign-out-everywhere")
    assert (first.user, third.user, stranger.user) == ("a visitor", "a visitor", "Joe")


def test_device_that_was_last_used_longest_ago_makes_room(shop: FastAPI) -> None:
    visitors = [Visitor(shop, f"Browser{number}/1").sign_in("Ann") for number in range(6)]
    assert len(visitors[-1].devices) == MAX_DEVICES
    assert [visitor.user for visitor in visitors].count("a visitor") == 1


def test_form_without_the_token_and_unknown_goods_are_refused(shop: FastAPI) -> None:
    visitor = Visitor(shop)
    answer = visitor.ask("POST", "/add-to-cart", item="Fountain pen")
    assert (answer.status_code, "Back to the shop" in answer.text) == (403, True)
    with pytest.raises(AssertionError, match="Not Found"):
        visitor.press("/add-to-cart", item="Gold")
    assert "Your name" in visitor.open("/devices").text
    assert visitor.ask("POST", "/sign-out").status_code == 403


def test_browsers_have_short_names() -> None:
    assert describe_browser("") == "A browser"
    assert describe_browser("<b>Bot</b>/1") == "bBot"
    assert describe_browser(f"{CHROME} Edg/140.0") == "Edge on Windows"


@pytest.mark.server
def test_shop_starts_serves_and_starts_again(tmp_path: Path) -> None:
    for _ in range(2):
        with run_example("fastapi", tmp_path) as example:
            (line,) = example.read_lines(1)
            (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)/", line)
            answer = send(int(port), "GET", "/")
            assert (answer.status, b"Fountain pen" in answer.body) == (200, True)
            assert send(int(port), "GET", "/style.css").status == 200


@pytest.mark.server
def test_shop_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "keys.json").write_text("{")
    assert "The shop can't start:" in fail_to_start("fastapi", tmp_path / "var")

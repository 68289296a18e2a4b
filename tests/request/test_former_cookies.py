"""A change of the cookie's path, domain or partitioning: former cookies are dead, and deleted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sealedstate import ConfigurationError, Key, Settings
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock, Jar
from tests.support.shop import log_out, node, setting, sign_in
from tests.support.tables import check_each

KEY = Key.generate(os.urandom).export()
BARE: dict[str, Any] = {"cookie_name": "s"}
EMBEDDED: dict[str, Any] = {"partitioned": True, "same_site": "None"}
# Settings of before and of now, and what the latter say of the former.
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "a wider domain": (BARE, BARE | {"cookie_domain": "example.org"}, {"domain": ""}),
    "no domain": (BARE | {"cookie_domain": "example.org"}, BARE, {"domain": "example.org"}),
    "a wider path": (BARE | {"cookie_path": "/app"}, BARE, {"path": "/app"}),
    "a narrower path": (BARE, BARE | {"cookie_path": "/app"}, {"path": "/"}),
    "partitioned": ({}, EMBEDDED, {"partitioned": False}),
    "not partitioned": (EMBEDDED, {}, {"partitioned": True}),
    "another name": ({}, BARE | {"cookie_domain": "a.b"}, {"name": "__Host-Http-s", "domain": ""}),
}


def test_former_cookie_without_a_name_has_the_default_name_of_its_attributes() -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, {"path": "/app"}, "s"),
        ({}, {"domain": "example.org"}, "s"),
        ({"cookie_path": "/app"}, {"path": "/"}, "__Host-Http-s"),
        ({"cookie_domain": "a.example.org"}, {"domain": ""}, "__Host-Http-s"),
        ({"cookie_name": "own"}, {"path": "/app"}, "own"),
        ({}, {"path": "/app", "name": "own"}, "own"),
    ]
    for given, table, name in cases:
        settings = Settings(keys=[KEY], former_cookies=[table], **given)
        assert [family.name for family in settings.former_families()] == [name]
    with pytest.raises(ConfigurationError, match="give the name of before, too"):
        Settings(cookie_name="__Host-own", former_cookies=[{"path": "/app"}])
    with pytest.raises(ConfigurationError, match="cookie_name: "):
        Settings(cookie_name="")


class Change:
    """A browser that was signed in as ann before a change of settings."""

    def __init__(self, name: str, **given: Any) -> None:
        before, now, former = CHANGES[name]
        self.clock = Clock()
        self.former = Browser(node(self.clock, None, **before, **given))
        sign_in(self.former, "ann", cart=[1])
        self.shop = node(self.clock, None, **now, **given, former_cookies=[former])
        self.browser = Browser(self.shop, self.former.jar.copy())
        self.path = "/app"

    def seen(self) -> object:
        return self.shop.session(self.browser.jar.header(self.path)).subject

    def visit(self, act: Any) -> None:
        session = self.shop.session(self.browser.jar.header(self.path))
        act(session)
        self.browser.jar.receive(self.shop.save(session))


def test_former_cookie_opens_nothing_and_is_deleted_by_the_next_response_that_sets_one() -> None:
    def check(name: str) -> None:
        change = Change(name)
        assert change.seen() is None
        change.visit(setting(cart=[2]))
        (pair,) = change.browser.jar.header(change.path).split("; ")
        assert dict(change.shop.session(pair)) == {"cart": [2]}

    check_each({name: name for name in CHANGES}, check)


def test_another_user_who_signs_in_over_a_former_cookie_is_signed_in_at_once() -> None:
    def check(name: str) -> None:
        change = Change(name)
        change.visit(lambda session: setattr(session, "subject", "bob"))
        assert change.seen() == "bob"
        # The former cookie comes back, from another page or node.
        former = change.former.jar.header(change.path)
        current = change.browser.jar.header(change.path)
        for header in (f"{former}; {current}", f"{current}; {former}"):
            session = change.shop.session(header)
            assert session.subject == "bob"
            assert session.withheld is None

    check_each({name: name for name in CHANGES}, check)


def test_logout_leaves_no_cookie_that_signs_in() -> None:
    def check(name: str) -> None:
        change = Change(name)
        change.visit(lambda session: setattr(session, "subject", "ann"))
        both = change.former.jar.copy()
        both.receive(change.shop.save(change.shop.session()))
        for pair in change.browser.jar.header(change.path).split("; "):
            assert pair
        change.visit(log_out)
        assert change.browser.jar.header(change.path) == ""
        # One that had only the former cookie is signed out, too.
        change = Change(name)
        change.visit(log_out)
        assert change.browser.jar.header(change.path) == ""

    check_each({name: name for name in CHANGES}, check)


def test_chunks_of_a_former_cookie_are_deleted_when_they_come(clock: Clock) -> None:
    former = Browser(node(clock, None, profile="roomy", cookie_name="s"))
    sign_in(former, large="x" * 6000)
    assert len(former.jar.ours("s")) > 2
    now: dict[str, Any] = {"cookie_name": "s", "cookie_domain": "example.org"}
    shop = node(clock, None, profile="roomy", **now, former_cookies=[{"domain": ""}])
    browser = Browser(shop, former.jar)
    browser.visit(setting(cart=[1]))
    assert set(browser.jar.ours("s")) == {"s"}


def test_former_cookie_that_does_not_fit_into_the_response_stays_and_opens_nothing() -> None:
    change = Change("a wider domain", profile="tight")
    session = change.shop.session(change.browser.jar.header())
    session["cart"] = "x" * 900
    lines = change.shop.save(session, 1000)
    assert len(lines) == 1
    jar = change.browser.jar.copy()
    jar.receive(lines)
    assert dict(change.shop.session(jar.header()))["cart"] == "x" * 900


def test_spelling_of_the_domain_makes_no_other_cookie(clock: Clock) -> None:
    browser = Browser(node(clock, None, **BARE, cookie_domain=".Example.org"))
    sign_in(browser)
    other = node(clock, None, **BARE, cookie_domain="example.org")
    assert other.session(browser.jar.header()).subject == "ann"


def test_store_keeps_working_over_a_change(clock: Clock, store: ScriptedStorage) -> None:
    former = Browser(node(clock, store, **BARE))
    sign_in(former, vault="secret")
    shop = node(clock, store, **BARE, cookie_path="/app", former_cookies=[{"path": "/"}])
    browser = Browser(shop, Jar())
    sign_in(browser, vault="new")
    assert shop.session(browser.jar.header("/app"))["vault"] == "new"


def test_wrong_former_cookies_stop_the_start(tmp_path: Path) -> None:
    wrong: dict[str, tuple[Any, str]] = {
        "no list": (5, "former_cookies: expected Sequence"),
        "no table": ([5], "table 1 must be a table"),
        "the current one": ([{"path": "/"}], "is the cookie that is in use"),
        "nothing": ([{}], "is the cookie that is in use"),
        "unknown": ([{"pth": "/"}], "did you mean 'former_cookies.path'"),
        "a wrong type": ([{"path": 5}], "path: expected str, got int"),
        "a wrong value": ([{"path": "app"}], "table 1: cookie_path: must begin with"),
        "too many": ([{"path": f"/{n}"} for n in range(5)], "at most 4"),
    }

    def check(case: tuple[Any, str]) -> None:
        value, problem = case
        with pytest.raises(ConfigurationError, match=problem):
            Settings(former_cookies=value, cookie_name="s")

    check_each(wrong, check)
    file = tmp_path / "app.toml"
    file.write_text(
        '[sealedstate]\ncookie_name = "s"\ncookie_domain = "example.org"\n'
        '[[sealedstate.former_cookies]]\ndomain = ""\n'
    )
    (family,) = Settings.from_toml(file).former_families()
    assert (family.name, family.domain, family.path) == ("s", "", "/")
    assert "Domain" not in family.delete_line("s")
    environ = {"SEALEDSTATE_FORMER_COOKIES": "path=/app;partitioned=yes name=s;domain=example.org"}
    first, second = Settings.from_env(environ, cookie_name="t").former_families()
    assert (first.name, first.path, first.partitioned) == ("t", "/app", True)
    assert (second.name, second.domain) == ("s", "example.org")

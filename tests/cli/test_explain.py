"""``sealedstate explain``: what the operator learns of a visitor's Cookie header."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sealedstate import Keeper, Key, Session, Settings
from sealedstate.rotation.transitions import disable, revoke
from tests.support.documents import Document
from tests.support.jar import Browser
from tests.support.ring_cli import Desk, Run, run, usage_error

SECRETS = ("jdoe", "tea", "remember the milk")


class Site:
    """An application, its configuration, and a user with a session of two cookies."""

    def __init__(self, folder: Path, storage: str = "") -> None:
        self.folder = folder
        self.config = folder / "app.toml"
        self.key = Key.generate(os.urandom)
        (folder / "keys").write_text(self.key.export())
        self.configure(storage)

    def configure(self, more: str = "") -> None:
        self.config.write_text(
            f'[sealedstate]\nkeys = "file:{self.folder}/keys"\nprofile = "standard"\n{more}\n'
        )

    def browser(self, act: Callable[[Session], object] | None = None) -> Browser:
        browser = Browser(Keeper(Settings.from_toml(self.config)))
        browser.visit(act or sign_in)
        return browser

    def explain(self, text: str, *options: str) -> Run:
        named = ("--config", str(self.config), *options)
        result = run("explain", *named, stdin=text.encode("latin-1"))
        assert not any(secret in result.out + result.err for secret in SECRETS)
        return result

    def facts(self, text: str) -> Any:
        return self.explain(text, "--json").json


def sign_in(session: Session, size: int = 100) -> None:
    session.subject = "jdoe"
    session["cart"] = ["tea"] * 4 * size
    session["notes"] = "remember the milk" * size


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_session_that_opens_is_described_without_its_values(site: Site) -> None:
    browser = site.browser()
    header = f"theme=dark; {browser.jar.header()}"
    code, out, err = site.explain(f"Cookie: {header}\n")
    assert (code, err) == (0, "")
    assert out.startswith("The session opens.\n__Host-Http-s: ")
    assert f"key {site.key.kid.hex()} primary, sealed 20" in out
    assert "signed in\ncreated 20" in out
    assert "Without a store, logouts are not checked." in out
    facts = site.facts(header)
    assert facts["foreign_names"] == ["theme"]
    assert facts["cookie_bytes"] + facts["foreign_bytes"] == len(header)
    assert [each["name"] for each in facts["cookies"]] == ["__Host-Http-s", "__Host-Http-s-1"]
    (session,) = facts["sessions"]
    assert session["session"] in {event.session for event in saved_events(site, header)}
    info = browser.keeper.info(browser.session())
    sizes = {part["name"]: (part["place"], part["bytes"]) for part in session["parts"]}
    assert sizes == {name: (part.place, part.value_bytes) for name, part in info.parts.items()}
    assert {place for place, _ in sizes.values()} == {"core", "overflow"}


def saved_events(site: Site, header: str) -> list[Any]:
    found: list[Any] = []
    keeper = Keeper(Settings.from_toml(site.config, observers=[found.append]))
    assert keeper.session(header).subject == "jdoe"
    return found


def test_input_is_a_header_or_a_request_or_set_cookie_lines_or_a_value(site: Site) -> None:
    browser = site.browser()
    header = browser.jar.header()
    core = f"__Host-Http-s={browser.jar.ours()['__Host-Http-s']}"
    lines = "\n".join(f"set-cookie: {pair}; Path=/; Secure" for pair in header.split("; "))
    for text in (
        header,
        f"> GET / HTTP/2\n> Cookie: {header}\n> Accept: a=b\n",
        lines,
        core.partition("=")[2],
    ):
        facts = site.facts(text)
        assert facts["opens"]
        assert facts["foreign_names"] == []
        is_complete = facts["sessions"][0]["overflow_complete"]
        assert is_complete == ("-1=" in text)
    assert "did not all come" in site.explain(core).out


def test_cookie_that_does_not_open_has_its_reason_and_what_to_do(site: Site) -> None:
    browser = site.browser()
    header, core = browser.jar.header(), browser.jar.ours()["__Host-Http-s"]
    code, out, _ = site.explain(
        header.replace(core, f"{core[:99]}{core[99:109][::-1]}{core[109:]}")
    )
    assert code == 1
    assert out.startswith("No session opens: tag. The tag does not match")
    assert "What to do: the cookie was altered, or another application" in out
    assert "says that it was sealed 20" in out
    assert site.facts("__Host-Http-s=x")["reason"] == "malformed"
    (site.folder / "keys").write_text(Key.generate(os.urandom).export())
    facts = site.facts(header)
    assert (facts["reason"], facts["kept"]) == ("kid-unknown", True)
    assert (facts["cookies"][0]["kid"], facts["sessions"]) == (site.key.kid.hex(), [])
    for text, names in (("", []), ("theme=dark; lang=en", ["lang", "theme"])):
        assert site.explain(text).out.startswith("There is no cookie of the session.")
        assert site.facts(text)["foreign_names"] == names


def test_expired_and_ended_sessions_are_described(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f'storage = "sqlite:{tmp_path}/store.db"'
    site.configure(store)
    browser = site.browser()
    header = browser.jar.header()
    assert "logouts" not in site.explain(header).out
    browser.visit(lambda session: session.invalidate())
    facts = site.facts(header)
    assert (facts["opens"], facts["reason"], facts["kept"]) == (False, "revoked", False)
    assert facts["sessions"][0]["signed_in"]
    site.configure("idle_lifetime = 1\nrefresh_after = 0")
    header = site.browser().jar.header()
    later = time.time() + 2
    monkeypatch.setattr("time.time", lambda: later)
    facts = site.facts(header)
    assert (facts["reason"], facts["remedy"]) == ("expired", None)
    assert "ago), unused " not in site.explain(header).out


def test_key_of_a_ring_is_named_with_its_state_and_why_it_is_gone(wrapped: Desk) -> None:
    ring = wrapped.create(age=100)
    keeper = Keeper(Settings.from_env(wrapped.environ, rotate_in_process=False))
    browser = Browser(keeper)
    browser.visit(lambda session: sign_in(session, 1))
    header, kid, now = browser.jar.header().encode(), ring.keys[0].kid, int(time.time())
    disabled = wrapped.put(disable(ring, kid, now, os.urandom))
    facts = run("explain", "--json", stdin=header).json
    assert (facts["reason"], facts["kept"], facts["cookies"][0]["key"]) == (
        "kid-disabled",
        True,
        "disabled",
    )
    assert facts["sessions"][0]["signed_in"]
    wrapped.put(revoke(disabled, kid, now, os.urandom, "laptop stolen"))
    out = run("explain", stdin=header).out
    assert "No session opens: kid-refused." in out
    assert f"key {kid.hex()} revoked (laptop stolen)" in out


def test_documented_example_has_the_lines_that_are_printed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = site.browser().jar.header()
    later = time.time() + 3 * 3600
    monkeypatch.setattr("time.time", lambda: later)
    _, *documented = Document("events.md").block("explain").splitlines()

    def shape(lines: list[str]) -> list[str]:
        lines = [re.sub(r"\b[0-9a-f]{8,16}\b", "KID", line) for line in lines]
        return [re.sub(r"\d+|\((in )?[^)]+\)| +", " ", line) for line in lines]

    printed = site.explain(f"theme=dark; {header}").out.splitlines()
    assert shape(printed) == shape(documented)


def test_cookie_is_never_an_argument(site: Site) -> None:
    error = usage_error("explain", "__Host-Http-s=secret", "--config", str(site.config))
    assert "standard input" in error
    assert "secret" not in error

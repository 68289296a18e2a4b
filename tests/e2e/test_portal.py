"""The demo, started like a newcomer starts it, and driven through its pages in a real browser."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import selectors
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO
from urllib.parse import urlencode, urlsplit

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.ui import WebDriverWait

from examples.portal.actions import MOST_KEYS, Order, rotate_keys
from examples.portal.deployment import ANNOUNCE, Deployment, merge_logins
from sealedstate import PROFILES, Keeper, Profile
from sealedstate._wire.encoding import from_text
from sealedstate.rotation.source import RotatingKeySource
from tests.support.browser import complaints, follow, forget_cookies, open_browser, take_picture

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "portal.png"
PORTABLE = PROFILES["portable"]
PATIENCE = 60  # seconds to start or to stop
server = pytest.mark.server


# --- the portal as a process --------------------------------------------------------------------


@dataclass(frozen=True)
class Portal:
    """A running portal: its link and the directory with keys and store."""

    link: str
    var: Path
    process: subprocess.Popen[str]

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.link)
        return parts.hostname or "", parts.port or 0


@contextlib.contextmanager
def running(directory: Path, *options: str) -> Iterator[Portal]:
    """A portal on a free port. It must stop cleanly on Ctrl-C, having complained of nothing."""
    var, log = directory / "var", directory / "stderr.txt"
    with log.open("w") as stderr, _started(var, options, stderr) as process:
        try:
            yield Portal(_printed_link(process), var, process)
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output.split()) == (0, ["Stopped."])
    assert "Traceback" not in log.read_text()


@contextlib.contextmanager
def _started(
    var: Path, options: tuple[str, ...], stderr: int | IO[str]
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(ROOT / "examples/portal"), "--port", "0", "--var", str(var)]
    with subprocess.Popen(
        [*command, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # does nothing to a process that has ended


def _printed_link(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        assert selector.select(PATIENCE), "the portal prints no link"
    links: list[str] = re.findall(r"http://\S+", process.stdout.readline())
    assert len(links) == 1
    return links[0]


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[Portal]:
    with running(tmp_path) as started:
        yield started


# --- somebody who uses it -----------------------------------------------------------------------


@dataclass(frozen=True)
class Visitor:
    """A person with a browser at the portal."""

    driver: Chrome
    portal: Portal

    def sign_in(self, name: str) -> None:
        self.driver.get(self.portal.link)
        self.driver.find_element(By.ID, "name").send_keys(name)
        self.press("Sign in")

    def press(self, label: str) -> None:
        follow(self.driver, self.driver.find_element(By.XPATH, f"//button[text()='{label}']"))

    def click(self, label: str) -> None:
        follow(self.driver, self.driver.find_element(By.PARTIAL_LINK_TEXT, label))

    def buy(self, item: str) -> None:
        Select(self.driver.find_element(By.ID, "item")).select_by_visible_text(item)
        self.press("Add")

    def write_note(self, text: str) -> None:
        # Typing thousands of letters takes a while; a paste does not.
        field = self.driver.find_element(By.ID, "note")
        self.driver.execute_script("arguments[0].value = arguments[1]", field, text)
        follow(self.driver, self.driver.find_element(By.XPATH, "//button[text()='Save']"))

    def come_back(self) -> None:
        self.driver.get(self.portal.link)

    def text(self, locator: str) -> str:
        return self.driver.find_element(By.CSS_SELECTOR, locator).text

    @property
    def headline(self) -> str:
        return self.text("h1")

    @property
    def is_signed_out(self) -> bool:
        return self.headline == "Sign in"

    @property
    def places(self) -> dict[str, str]:
        """Where the overview says that each part lives."""
        rows = self.driver.find_elements(By.CSS_SELECTOR, "#parts [data-part]")
        return {
            row.get_attribute("data-part") or "": row.get_attribute("data-place") or ""
            for row in rows
        }

    def services(self) -> list[str]:
        """All services of the session, as their page lists them; ends on the overview."""
        self.click("services")
        found = [cell.text for cell in self.driver.find_elements(By.CSS_SELECTOR, ".entity")]
        assert self.headline == f"{len(found)} service login{'' if len(found) == 1 else 's'}"
        self.click("Back")
        return found

    def services_told(self) -> list[str]:
        """The same, asked for with the browser's cookies beside the browser."""
        path = f"{urlsplit(self.driver.current_url).path}services"
        found = ask(self.portal, path, self.cookie_header)
        return re.findall(r'<td class="entity">([^<]*)', found.body)

    def rotate_keys(self) -> str:
        """Have a key announced, and wait on the page until its turn comes; its kid."""
        self.press("Rotate now")
        # The page reloads itself meanwhile, which chromedriver may be asked in the middle of.
        wait = WebDriverWait(self.driver, PATIENCE, ignored_exceptions=[WebDriverException])
        keys = wait.until(self._keys_once_none_waits)
        return next(kid for kid, state in keys.items() if state == "primary")

    def _keys_once_none_waits(self, _: object) -> dict[str, str]:
        keys = self.keys
        return keys if set(keys.values()) == {"primary", "retired"} else {}

    @property
    def keys(self) -> dict[str, str]:
        """The state of each key, by kid, as the page of the ring tells it."""
        rows = self.driver.find_elements(By.CSS_SELECTOR, "[data-kid]")
        return {
            row.get_attribute("data-kid") or "": row.get_attribute("data-state") or ""
            for row in rows
        }

    @property
    def cookie_kid(self) -> str:
        """The key that has sealed our first cookie: it stands behind the format byte."""
        return from_text(self.cookies["portal"])[1:5].hex()

    @property
    def cookies(self) -> dict[str, str]:
        """Our cookies in the browser's own jar."""
        jar = self.driver.get_cookies()
        for cookie in jar:
            assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")
        return {cookie["name"]: cookie["value"] for cookie in jar}

    @property
    def cookie_header(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def carries_at_most(self, profile: Profile) -> bool:
        sizes = [len(name) + 1 + len(value) for name, value in self.cookies.items()]
        assert sizes, "a signed-in visitor carries a cookie"
        return (
            len(sizes) <= profile.cookies
            and max(sizes) <= profile.cookie_bytes
            and sum(sizes) <= profile.total_bytes
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with open_browser() as driver:
        yield driver


@pytest.fixture
def visitor(portal: Portal, browser: Chrome) -> Visitor:
    forget_cookies(browser)  # of the visitor before: ports share them
    return Visitor(browser, portal)


# --- in the browser -----------------------------------------------------------------------------


@server
def test_a_visit_from_sign_in_to_sign_out_loses_nothing_and_stays_in_the_budget(
    visitor: Visitor,
) -> None:
    visitor.sign_in("Ada Lovelace")
    assert visitor.carries_at_most(PORTABLE)
    assert "services" not in visitor.places

    expected = 0
    for count, place in ((5, "core"), (20, "spilled"), (100, "spilled")):
        visitor.press(f"+{count}")
        expected += count
        assert visitor.carries_at_most(PORTABLE)
        assert visitor.places["services"] == place
        assert len(set(visitor.services())) == expected

    visitor.buy("Fountain pen")
    visitor.buy("Signet ring, brass")
    assert visitor.carries_at_most(PORTABLE)
    assert visitor.text("#cart") == "2 items, 87.00 EUR."
    assert visitor.places == {
        "authn": "core",
        "cart": "core",
        "csrf": "core",
        "services": "spilled",
    }
    assert len(set(visitor.services_told())) == expected
    assert complaints(visitor.driver) == []  # nothing that our own policy forbids

    captured = visitor.cookie_header
    assert "Ada Lovelace" in ask(visitor.portal, "/portable/", captured).body
    visitor.press("Sign out")
    assert visitor.is_signed_out
    replayed = ask(visitor.portal, "/portable/", captured)
    assert "<h1>Sign in</h1>" in replayed.body
    assert "Ada Lovelace" not in replayed.body


@server
def test_what_shrinks_comes_back_into_the_cookie(visitor: Visitor) -> None:
    visitor.sign_in("Grace")
    for _ in range(3):
        visitor.press("+5")
    assert visitor.places["services"] == "spilled"
    visitor.click("services")
    for _ in range(8):
        visitor.press("Remove")
    visitor.click("Back")
    assert visitor.carries_at_most(PORTABLE)
    assert visitor.places["services"] == "core"
    assert visitor.text("#logins").startswith("7 of them.")
    visitor.press("Remove all")
    assert visitor.text("#logins") == "None yet."


@server
def test_sign_out_everywhere_reaches_a_second_browser(visitor: Visitor) -> None:
    visitor.sign_in("Ada")
    with open_browser() as driver:
        other = Visitor(driver, visitor.portal)
        other.sign_in("Ada")
        other.press("+5")
        visitor.press("Sign out everywhere")
        assert visitor.is_signed_out
        other.come_back()
        assert other.is_signed_out
    visitor.sign_in("Ada")
    assert visitor.headline == "The session of Ada"


@server
def test_the_same_session_moves_through_all_profiles(visitor: Visitor) -> None:
    visitor.sign_in("Ada Lovelace")
    visitor.press("+20")
    for item in ("Sealing wax, burgundy", "Signet ring, brass", "Fountain pen"):
        visitor.buy(item)
    if "PORTAL_SCREENSHOT" in os.environ:
        visitor.rotate_keys()
        visitor.click("Back")
        visitor.click("read")
        take_picture(visitor.driver, PICTURE, 1200, 1000)
    services = visitor.services_told()
    assert len(set(services)) == 20
    places = {"roomy": "overflow", "portable": "spilled", "standard": "spilled", "tight": "spilled"}
    for name, place in places.items():
        visitor.press(name)
        assert visitor.carries_at_most(PROFILES[name])
        assert visitor.places["services"] == place
        assert visitor.services_told() == services
        assert visitor.text("#cart") == "3 items, 93.50 EUR."


@server
def test_a_rotated_key_seals_within_seconds_and_nobody_is_signed_out(visitor: Visitor) -> None:
    visitor.sign_in("Ada Lovelace")
    visitor.buy("Fountain pen")
    old = visitor.cookie_kid
    new = visitor.rotate_keys()
    assert visitor.keys == {new: "primary", old: "retired"}
    assert f"{new} seals now. Your session was sealed by {old}" in visitor.text("#story")
    assert visitor.cookie_kid in (old, new)  # some sessions move at the first look
    visitor.click("Back")
    assert visitor.headline == "The session of Ada Lovelace"
    assert visitor.text("#cart").startswith("1 item,")
    visitor.buy("Signet ring, brass")
    assert visitor.cookie_kid == new
    assert visitor.text("#cart").startswith("2 items,")
    visitor.click("keys")
    assert visitor.text("#story") == "Your session is sealed by the key that seals now."
    assert complaints(visitor.driver) == []


@server
def test_all_profiles_go_by_one_ring(visitor: Visitor) -> None:
    visitor.sign_in("Ada")
    new = visitor.rotate_keys()
    visitor.press("roomy")
    assert visitor.cookie_kid == new
    assert visitor.headline == "The session of Ada"
    visitor.press("Sign out everywhere")  # by the lookup key of the ring
    assert visitor.is_signed_out


@server
def test_other_peoples_cookies_take_room_from_ours(visitor: Visitor) -> None:
    visitor.sign_in("Ada")
    visitor.press("roomy")
    visitor.press("+20")
    assert visitor.places["services"] == "overflow"
    for _ in range(4):
        visitor.press("Add 1,500 bytes")
    visitor.press("portable")
    assert visitor.places["services"] == "spilled"
    assert visitor.text("#trackers") == "4 cookies of others."
    foreign = re.sub(r"\D", "", visitor.text("#header").partition(" of ")[0])
    assert 6000 < int(foreign) <= PORTABLE.header_bytes
    visitor.press("Regenerate")
    assert len(visitor.services()) == 20


@server
def test_what_fits_nowhere_is_told_and_changes_nothing(visitor: Visitor) -> None:
    visitor.sign_in("Ada")
    visitor.write_note("short")
    before = visitor.cookies
    visitor.write_note("x" * 3900)
    assert visitor.headline == "This does not fit"
    assert "note 39" in visitor.text(".detail")
    assert visitor.cookies == before
    visitor.click("Back")
    field = visitor.driver.find_element(By.ID, "note")
    assert field.get_attribute("value") == "short"


@server
def test_a_locked_store_signs_nobody_out_and_claims_no_logout(visitor: Visitor) -> None:
    visitor.sign_in("Ada")
    with _write_lock(visitor.portal):
        before = visitor.cookies
        for button in ("+20", "Sign out", "Sign out everywhere"):
            visitor.press(button)
            assert visitor.headline == "The store does not answer"
            assert visitor.cookies == before
            visitor.click("Back")
            assert visitor.headline == "The session of Ada"
        assert visitor.text("#logins") == "None yet."
    visitor.press("Sign out")
    assert visitor.is_signed_out


@server
def test_a_store_that_can_not_be_read_keeps_the_cookie(visitor: Visitor) -> None:
    visitor.sign_in("Ada")
    before = visitor.cookies
    with _write_lock(visitor.portal, "EXCLUSIVE"):
        visitor.come_back()
        assert visitor.is_signed_out
        assert "left untouched" in visitor.text(".warning")
    assert visitor.cookies == before
    visitor.come_back()
    assert visitor.headline == "The session of Ada"


@contextlib.contextmanager
def _write_lock(portal: Portal, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Hold a lock on the portal's store, as a stuck backup does."""
    (path,) = portal.var.glob("*.sqlite")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # else readers pass an exclusive lock
        connection.execute(f"BEGIN {kind}")
        yield
        connection.execute("ROLLBACK")


# --- without a browser --------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """An answer of the portal."""

    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def cookie(self) -> str:
        return self.headers.get("Set-Cookie", "").partition(";")[0]

    @property
    def token(self) -> str:
        found = re.search(r'name="csrf" value="([0-9a-f]*)"', self.body)
        return found[1] if found else ""


def ask(
    portal: Portal,
    path: str,
    cookie: str = "",
    form: Mapping[str, str] | None = None,
    **headers: str,
) -> Page:
    """One request: a GET, or a POST of `form`."""
    sent = {"Cookie": cookie, **{name.replace("_", "-"): text for name, text in headers.items()}}
    if form is not None:
        sent["Content-Type"] = "application/x-www-form-urlencoded"
    with contextlib.closing(http.client.HTTPConnection(*portal.address, timeout=60)) as connection:
        method, body = ("GET", None) if form is None else ("POST", urlencode(form))
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return Page(answer.status, dict(answer.getheaders()), answer.read().decode())


def signed_in(portal: Portal, name: str) -> str:
    """The cookie of somebody who has just signed in."""
    door = ask(portal, "/portable/")
    form = {"csrf": door.token, "name": name}
    return ask(portal, "/portable/sign-in", door.cookie, form).cookie


@server
def test_the_first_start_makes_keys_for_their_owner_only(portal: Portal) -> None:
    assert ask(portal, "/").headers["Location"] == "/portable/"
    assert stat.S_IMODE((portal.var / "keys.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(portal.var.stat().st_mode) == 0o700


@server
def test_a_second_start_opens_the_sessions_of_the_first(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        cookie = signed_in(first, "Ada")
    with running(tmp_path, "--profile", "roomy") as second:
        assert ask(second, "/").headers["Location"] == "/roomy/"
        assert "The session of Ada" in ask(second, "/roomy/", cookie).body


@server
def test_a_taken_port_is_told_or_evaded(portal: Portal, tmp_path: Path) -> None:
    taken = str(portal.address[1])
    options = ("--port", taken)
    with _started(tmp_path / "other", options, subprocess.PIPE) as process:
        output, complaint = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (1, "")
    assert complaint.startswith("The portal can't start: ")


@server
def test_a_form_without_the_sessions_token_is_refused(portal: Portal) -> None:
    cookie = signed_in(portal, "Ada")
    other = ask(portal, "/portable/", signed_in(portal, "Eve")).token
    for form in ({}, {"csrf": ""}, {"csrf": other}, {"csrf": "é"}):
        for action in ("sign-out", "rotate-keys"):
            refused = ask(portal, f"/portable/{action}", cookie, form)
            assert (refused.status, refused.cookie) == (403, "")
    assert "The session of Ada" in ask(portal, "/portable/", cookie).body


@server
def test_a_forged_sign_in_is_refused(portal: Portal) -> None:
    assert ask(portal, "/portable/sign-in", "", {"name": "Eve"}).status == 403


@server
def test_a_cookie_of_a_lost_key_stays_until_somebody_signs_in(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        cookie = signed_in(first, "Ada")
    for path in (tmp_path / "var").glob("keys.json*"):
        if path.is_file():
            path.unlink()
    with running(tmp_path) as second:
        door = ask(second, "/portable/", cookie)
        assert "left untouched" in door.body
        assert door.cookie == ""
        form = {"name": "Ada"}
        assert ask(second, "/portable/sign-in", cookie, form).status == 403
        again = ask(second, "/portable/sign-in", cookie, form, Sec_Fetch_Site="same-origin")
        assert again.status == 303
        assert "The session of Ada" in ask(second, "/portable/", again.cookie).body


@server
def test_a_ring_that_was_there_is_not_begun_anew(tmp_path: Path) -> None:
    Deployment(tmp_path / "var").store.close()
    (tmp_path / "var" / "keys.json").unlink()
    with _started(tmp_path / "var", (), subprocess.PIPE) as process:
        output, complaint = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (1, "")
    assert "restore it" in complaint


@server
def test_what_visitors_type_is_never_markup(portal: Portal) -> None:
    page = ask(portal, "/portable/", signed_in(portal, "<i>\"'&$subject"))
    assert "&lt;i&gt;&quot;&#x27;&amp;$subject" in page.body
    assert '<i>"' not in page.body


@server
def test_odd_requests_get_a_page(portal: Portal) -> None:
    cookie = signed_in(portal, "Ada")
    assert ask(portal, "/portable/nothing", cookie).status == 404
    assert ask(portal, "/nothing").status == 404
    refused = ask(portal, "/portable/sign-out", cookie)
    assert (refused.status, refused.headers["Allow"]) == (405, "POST")
    assert ask(portal, "/portable/services").status == 303
    assert ask(portal, "/portable/keys").status == 303
    assert ask(portal, "/portable/add-services", "", {"count": "5"}).status == 303
    token = ask(portal, "/portable/", cookie).token
    for count in ("7", "-1", "five", "9" * 5000):
        form = {"csrf": token, "count": count}
        assert ask(portal, "/portable/add-services", cookie, form).status == 303
    assert ask(portal, "/portable/write-note", cookie, {"note": "x" * 20_000}).status == 413


@server
def test_the_stylesheet_needs_no_session(portal: Portal) -> None:
    style = ask(portal, "/style.css", "portal=x")
    assert (style.status, style.headers["Content-Type"]) == (200, "text/css; charset=utf-8")
    assert not {"Vary", "Set-Cookie"} & style.headers.keys()


# --- without a server ---------------------------------------------------------------------------


def _login(name: str) -> dict[str, object]:
    return {"entity_id": name, "session_index": name}


def test_logins_of_two_tabs_are_merged() -> None:
    first, second, third, fourth = map(_login, ("1", "2", "3", "4"))
    base = [first, second]
    assert merge_logins(base, [first, second, third], [*base, fourth]) == [*base, third, fourth]
    assert merge_logins(base, [second, third], base) == [second, third]
    assert merge_logins(base, [*base, third], [second]) == [second, third]
    assert merge_logins(None, [third], [fourth]) == [third, fourth]


def test_one_source_serves_all_profiles_so_that_one_thread_tends_the_ring(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path / "var")
    with contextlib.closing(deployment.store):
        sources = [deployment.settings(name).keys for name in PROFILES]
    assert all(source is deployment.keys for source in sources)


def _rotating(keys: RotatingKeySource, keeper: Keeper, now: int) -> str:
    """What somebody who asks for a new key at `now` is told."""
    keys.config = replace(keys.config, clock=lambda: now)
    return rotate_keys(Order(keeper.session(), {}, keeper, keys))


def test_one_key_at_a_time_is_announced_and_not_without_end(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path / "var")
    with contextlib.closing(deployment.store), contextlib.closing(deployment.keys) as keys:
        keeper, now = Keeper(deployment.settings("portable")), keys.ring.updated_at
        assert _rotating(keys, keeper, now) == "key-announced"
        assert _rotating(keys, keeper, now + ANNOUNCE - 1) == "key-is-coming"
        told = {_rotating(keys, keeper, now + turn * ANNOUNCE) for turn in range(1, MOST_KEYS - 1)}
        assert told == {"key-announced"}
        assert _rotating(keys, keeper, now + MOST_KEYS * ANNOUNCE) == "enough-keys"
        assert len(keys.ring.keys) == MOST_KEYS


def test_a_ring_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path / "var")
    with contextlib.closing(deployment.store), contextlib.closing(deployment.keys) as keys:
        keeper, ring = Keeper(deployment.settings("portable")), keys.ring
        (tmp_path / "var" / "keys.json").write_text("{}")
        assert _rotating(keys, keeper, ring.updated_at) == "keys-unchanged"
        assert keys.ring is ring

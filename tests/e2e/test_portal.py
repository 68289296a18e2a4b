"""The demo, started as the README says, and driven through its pages in a real browser."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.ui import WebDriverWait

from examples.portal.actions import MAX_KEYS, Submission, rotate_keys
from examples.portal.logins import merge_plain
from examples.portal.resources import ANNOUNCE, PortalResources
from sealedstate import PROFILES, Keeper, Profile
from sealedstate._wire.encoding import from_text
from tests.support.browser import (
    complaints,
    follow,
    forget_visitor,
    open_browser,
    open_either,
    take_picture,
)
from tests.support.example_processes import ROOT, fail_to_start, run_example

PICTURE = ROOT / "docs" / "portal.png"
PORTABLE = PROFILES["portable"]
PATIENCE = 60  # seconds; a key that is announced seals after five
server = pytest.mark.server


# --- the portal as a process --------------------------------------------------------------------


@dataclass(frozen=True)
class Portal:
    """A running portal: its link and the directory with keys and store."""

    link: str
    var: Path


@contextlib.contextmanager
def running(directory: Path, *options: str) -> Iterator[Portal]:
    """A portal on a free port."""
    with run_example("portal", directory, *options) as example:
        (line,) = example.read_lines(1)
        (link,) = re.findall(r"http://\S+", line)
        yield Portal(link, example.var)


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    with running(tmp_path_factory.mktemp("portal")) as started:
        yield started


# --- a visitor with a browser -------------------------------------------------------------------


@dataclass(frozen=True)
class Visitor:
    """A visitor of the portal with a browser."""

    driver: WebDriver
    portal: Portal

    def sign_in(self, name: str) -> None:
        self.driver.get(self.portal.link)
        self.driver.find_element(By.ID, "name").send_keys(name)
        self.press("Sign in")

    def press(self, label: str) -> None:
        follow(self.driver, self.driver.find_element(By.XPATH, f"//button[text()='{label}']"))

    def keep_as(self, form: str) -> None:
        button = self.driver.find_element(By.CSS_SELECTOR, f"[data-form={form}] button")
        follow(self.driver, button)

    def click(self, label: str) -> None:
        follow(self.driver, self.driver.find_element(By.PARTIAL_LINK_TEXT, label))

    def buy(self, item: str) -> None:
        Select(self.driver.find_element(By.ID, "item")).select_by_visible_text(item)
        self.press("Add")

    def write_note(self, text: str) -> None:
        # Typing thousands of letters takes a while; a paste does not.
        field = self.driver.find_element(By.ID, "note")
        self.driver.execute_script("arguments[0].value = arguments[1]", field, text)
        self.press("Save")

    def come_back(self) -> None:
        self.driver.get(self.portal.link)

    def text(self, locator: str) -> str:
        return self.driver.find_element(By.CSS_SELECTOR, locator).text

    def attributes(self, locator: str, name: str, value: str) -> dict[str, str]:
        """The attribute `value` of all elements, by their attribute `name`."""
        found = self.driver.find_elements(By.CSS_SELECTOR, locator)
        return {one.get_attribute(name) or "": one.get_attribute(value) or "" for one in found}

    @property
    def headline(self) -> str:
        return self.text("h1")

    @property
    def is_signed_out(self) -> bool:
        return self.headline == "Sign in"

    @property
    def places(self) -> dict[str, str]:
        """Where each part lives, as the overview says."""
        return self.attributes("#parts [data-part]", "data-part", "data-place")

    @property
    def sizes(self) -> dict[str, int]:
        """What the service logins take in each form, as the overview says."""
        found = self.attributes("[data-form]", "data-form", "data-bytes")
        return {form: int(size) for form, size in found.items()}

    @property
    def keys(self) -> dict[str, str]:
        """The state of each key by kid, as the page of the ring says."""
        return self.attributes("[data-kid]", "data-kid", "data-state")

    def services(self) -> list[str]:
        """All services of the session, fetched with the browser's cookies beside the browser."""
        path = f"{urlsplit(self.driver.current_url).path}services"
        return re.findall(r'<td class="entity">([^<]*)', self.fetch(path).body)

    def fetch(self, path: str) -> Page:
        return ask(self.portal, path, self.cookie_header)

    def rotate_keys(self) -> str:
        """Have a key announced, and wait on its page until it seals; its kid."""
        self.press("Rotate now")
        # The page reloads meanwhile: asked in between, chromedriver answers with an error.
        wait = WebDriverWait(self.driver, PATIENCE, ignored_exceptions=[WebDriverException])
        wait.until(lambda _: set(self.keys.values()) == {"primary", "retired"})
        return next(kid for kid, state in self.keys.items() if state == "primary")

    @property
    def cookie_kid(self) -> str:
        """The key that sealed our first cookie: its id follows the format byte."""
        return from_text(self.cookies["portal"])[1:5].hex()

    @property
    def cookies(self) -> dict[str, str]:
        """Our cookies in the browser's jar."""
        jar = [one for one in self.driver.get_cookies() if one["name"].startswith("portal")]
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
    forget_visitor(browser)  # of the visitor before: ports share them
    return Visitor(browser, portal)


# --- service logins -----------------------------------------------------------------------------


@server
def test_a_hundred_logins_stay_in_the_cookie_where_a_plain_mapping_does_not(
    visitor: Visitor,
) -> None:
    visitor.sign_in("Ada Lovelace")
    assert visitor.text("#logins").startswith("None yet.")
    expected = 0
    for count in (1, 20, 100):
        visitor.press(f"+{count}")
        expected += count
        shown = f"{expected} {'login takes' if expected == 1 else 'logins take'} "
        assert visitor.text("#logins").startswith(shown)
        assert visitor.places["logins"] == "core"
        assert len(set(visitor.services())) == expected
        assert visitor.carries_at_most(PORTABLE)
    if "PORTAL_SCREENSHOT" in os.environ:
        take_picture(visitor.driver, PICTURE, 1200, 1000)
    sizes, services = visitor.sizes, visitor.services()
    assert sizes["derived"] < 300 < 5000 < sizes["stored"] < 30_000 < sizes["plain"]
    for form, part in (("plain", "plain"), ("stored", "logins"), ("derived", "logins")):
        visitor.keep_as(form)
        # What the page said beforehand is what the form then takes.
        assert visitor.sizes[form] == sizes[form]
        assert visitor.places[part] == ("core" if form == "derived" else "spilled")
        assert sorted(visitor.services()) == sorted(services)
        assert visitor.carries_at_most(PORTABLE)


@server
def test_twenty_stored_logins_fit_into_the_cookie(visitor: Visitor) -> None:
    visitor.sign_in("Ada")
    visitor.press("+20")
    visitor.keep_as("stored")
    assert visitor.places["logins"] == "core"
    assert 800 < visitor.sizes["stored"] < 1000
    # Services know derived identifiers by the session's id: under a new id they are stored.
    visitor.keep_as("derived")
    known = visitor.fetch("/portable/services").body
    visitor.press("Regenerate")
    assert visitor.sizes["derived"] > 800
    names = re.compile(r'<code class="cut" title="(\w[^"]+)"')
    assert names.findall(visitor.fetch("/portable/services").body) == names.findall(known)


@server
def test_logins_that_shrink_come_back_into_the_cookie(visitor: Visitor) -> None:
    visitor.sign_in("Grace")
    visitor.press("+1")
    visitor.keep_as("plain")
    for _ in range(3):
        visitor.press("+5")
    assert visitor.places["plain"] == "spilled"
    visitor.click("services")
    for _ in range(9):
        visitor.press("Remove")
    visitor.click("Back")
    assert visitor.carries_at_most(PORTABLE)
    assert visitor.places["plain"] == "core"
    assert visitor.text("#logins").startswith("7 logins take ")
    visitor.press("Remove all")
    assert visitor.text("#logins").startswith("None yet.")


@server
def test_logins_whose_identifier_key_is_lost_cost_no_login(tmp_path: Path, browser: Chrome) -> None:
    forget_visitor(browser)
    with running(tmp_path) as first:
        visitor = Visitor(browser, first)
        visitor.sign_in("Ada")
        visitor.press("+5")
        cookie = visitor.cookie_header
    for path in (tmp_path / "var").glob("identifiers.json*"):
        if path.is_file():
            path.unlink()
    with running(tmp_path) as second:
        page = ask(second, "/portable/", cookie)
        assert "The session of Ada" in page.body
        assert "cannot be read at this moment" in page.body
        refused = ask(second, "/portable/add-services", cookie, page.form(count="1"))
        assert (refused.status, "This did not work" in refused.body) == (503, True)
        cleared = ask(second, "/portable/remove-services", cookie, page.form())
        assert "None yet." in ask(second, "/portable/", cleared.cookie).body


# --- the session --------------------------------------------------------------------------------


@server
def test_signed_out_cookie_is_refused(visitor: Visitor) -> None:
    sign_out_and_replay(visitor)


@server
@pytest.mark.soak
def test_signed_out_cookie_of_firefox_is_refused(portal: Portal) -> None:
    with open_either("firefox") as driver:
        sign_out_and_replay(Visitor(driver, portal))


def sign_out_and_replay(visitor: Visitor) -> None:
    visitor.sign_in("Ada Lovelace")
    visitor.buy("Fountain pen")
    visitor.buy("Signet ring, brass")
    assert visitor.text("#cart") == "2 items, 87.00 EUR."
    assert visitor.places == {"authn": "core", "cart": "core", "csrf": "core"}
    assert complaints(visitor.driver) == []  # the page obeys its own content policy
    captured = visitor.cookie_header
    assert "Ada Lovelace" in ask(visitor.portal, "/portable/", captured).body
    visitor.press("Sign out")
    assert visitor.is_signed_out
    replayed = ask(visitor.portal, "/portable/", captured)
    assert "<h1>Sign in</h1>" in replayed.body
    assert "Ada Lovelace" not in replayed.body


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
def test_same_session_moves_through_all_profiles(visitor: Visitor) -> None:
    visitor.sign_in("Ada Lovelace")
    visitor.press("+20")
    visitor.keep_as("plain")
    for item in ("Sealing wax, burgundy", "Signet ring, brass", "Fountain pen"):
        visitor.buy(item)
    services = visitor.services()
    assert len(set(services)) == 20
    places = {"roomy": "overflow", "portable": "spilled", "standard": "spilled", "tight": "spilled"}
    for name, place in places.items():
        visitor.press(name)
        assert visitor.carries_at_most(PROFILES[name])
        assert visitor.places["plain"] == place
        assert visitor.services() == services
        assert visitor.text("#cart") == "3 items, 93.50 EUR."


@server
def test_rotated_key_seals_within_seconds_in_all_profiles(tmp_path: Path, browser: Chrome) -> None:
    forget_visitor(browser)
    with running(tmp_path) as portal:
        visitor = Visitor(browser, portal)
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
        visitor.press("roomy")
        assert visitor.cookie_kid == new
        visitor.press("Sign out everywhere")  # by the lookup key of the ring
        assert visitor.is_signed_out


@server
def test_cookies_of_others_take_room_from_ours(visitor: Visitor) -> None:
    visitor.sign_in("Ada")
    visitor.press("+20")
    visitor.press("roomy")
    visitor.keep_as("plain")
    assert visitor.places["plain"] == "overflow"
    for _ in range(4):
        visitor.press("Add 1,500 bytes")
    visitor.press("portable")
    assert visitor.places["plain"] == "spilled"
    assert visitor.text("#trackers") == "4 cookies of another application."
    foreign = re.sub(r"\D", "", visitor.text("#header").partition(" of ")[0])
    assert 6000 < int(foreign) <= PORTABLE.header_bytes
    visitor.press("Regenerate")
    assert len(visitor.services()) == 20


@server
def test_note_that_does_not_fit_is_refused_and_changes_nothing(visitor: Visitor) -> None:
    visitor.sign_in("Ada")
    visitor.write_note("short")
    before = visitor.cookies
    visitor.write_note("x" * 3900)
    assert visitor.headline == "This does not fit"
    assert visitor.text("#sizes tbody").startswith("note 3,9")
    assert visitor.cookies == before
    visitor.click("Back")
    field = visitor.driver.find_element(By.ID, "note")
    assert field.get_attribute("value") == "short"


@server
def test_locked_store_ends_no_session_and_claims_no_logout(visitor: Visitor) -> None:
    visitor.sign_in("Ada")
    visitor.press("+1")
    visitor.keep_as("plain")
    with _write_lock(visitor.portal):
        before = visitor.cookies
        for button in ("+20", "Sign out", "Sign out everywhere"):
            visitor.press(button)
            assert visitor.headline == "The store does not answer"
            assert visitor.cookies == before
            visitor.click("Back")
            assert visitor.headline == "The session of Ada"
        assert visitor.text("#logins").startswith("1 login takes ")
    with _write_lock(visitor.portal, "EXCLUSIVE"):  # not even reads
        visitor.come_back()
        assert visitor.is_signed_out
        assert "left untouched" in visitor.text(".warning")
    assert visitor.cookies == before
    visitor.come_back()
    visitor.press("Sign out")
    assert visitor.is_signed_out


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

    def form(self, **fields: str) -> dict[str, str]:
        """These fields and the token of the page's forms."""
        found = re.search(r'name="csrf" value="([0-9a-f]*)"', self.body)
        return {"csrf": found[1] if found else "", **fields}


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
    address = urlsplit(portal.link)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    with contextlib.closing(connection):
        method, body = ("GET", None) if form is None else ("POST", urlencode(form))
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return Page(answer.status, dict(answer.getheaders()), answer.read().decode())


def signed_in(portal: Portal, name: str) -> str:
    """The cookie of a visitor who has just signed in."""
    door = ask(portal, "/portable/")
    return ask(portal, "/portable/sign-in", door.cookie, door.form(name=name)).cookie


@server
def test_first_start_makes_keys_for_their_owner_only(portal: Portal) -> None:
    assert ask(portal, "/").headers["Location"] == "/portable/"
    for name in ("keys.json", "identifiers.json"):
        assert stat.S_IMODE((portal.var / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(portal.var.stat().st_mode) == 0o700


@server
def test_second_start_opens_the_sessions_of_the_first(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        cookie = signed_in(first, "Ada")
    with running(tmp_path, "--profile", "roomy") as second:
        assert ask(second, "/").headers["Location"] == "/roomy/"
        assert "The session of Ada" in ask(second, "/roomy/", cookie).body


@server
def test_taken_port_is_reported(portal: Portal, tmp_path: Path) -> None:
    taken = str(urlsplit(portal.link).port)
    complaint = fail_to_start("portal", tmp_path / "other", "--port", taken)
    assert complaint.startswith("The portal can't start: ")


@server
def test_lost_ring_is_not_replaced(tmp_path: Path) -> None:
    PortalResources(tmp_path / "var").close()
    (tmp_path / "var" / "keys.json").unlink()
    assert "restore it" in fail_to_start("portal", tmp_path / "var")


@server
def test_form_without_the_sessions_token_is_refused(portal: Portal) -> None:
    cookie = signed_in(portal, "Ada")
    other = ask(portal, "/portable/", signed_in(portal, "Eve")).form()
    for form in ({}, {"csrf": ""}, other, {"csrf": "é"}):
        for action in ("sign-out", "rotate-keys"):
            refused = ask(portal, f"/portable/{action}", cookie, form)
            assert (refused.status, refused.cookie) == (403, "")
    assert "The session of Ada" in ask(portal, "/portable/", cookie).body
    assert ask(portal, "/portable/sign-in", "", {"name": "Eve"}).status == 403


@server
def test_cookie_of_a_lost_key_stays_until_the_visitor_signs_in(tmp_path: Path) -> None:
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
def test_odd_requests_and_cookies_get_a_page(portal: Portal) -> None:
    cookie = signed_in(portal, "Ada")
    assert "Not Found" in ask(portal, "/portable/nothing", cookie).body
    assert ask(portal, "/nothing").status == 404
    refused = ask(portal, "/portable/sign-out", cookie)
    assert (refused.status, refused.headers["Allow"]) == (405, "POST")
    for page in ("services", "keys"):
        assert ask(portal, f"/portable/{page}").status == 303
    assert ask(portal, "/portable/add-services", "", {"count": "5"}).status == 303
    overview = ask(portal, "/portable/", cookie)
    for action, fields in (
        *(("add-services", {"count": count}) for count in ("7", "-1", "five", "9" * 5000)),
        ("keep-logins-as", {"form": "rot13"}),
        ("remove-service", {"entity_id": "https://nowhere.example"}),
        ("add-to-cart", {"item": "gold"}),
    ):
        assert ask(portal, f"/portable/{action}", cookie, overview.form(**fields)).status == 303
    assert ask(portal, "/portable/write-note", cookie, {"note": "x" * 20_000}).status == 413
    good = cookie.partition("=")[2]
    for value in ("", "x", "garbage" * 500, good[:-1], good[1:], good + "A", "é", '"' + good):
        door = ask(portal, "/portable/", f"portal={value}")
        assert (door.status, "<h1>Sign in</h1>" in door.body) == (200, True)
    assert "The session of Ada" in ask(portal, "/portable/", f"a=b;;portal={good}; portal=x").body
    style = ask(portal, "/style.css", "portal=x")
    assert (style.status, style.headers["Content-Type"]) == (200, "text/css; charset=utf-8")
    assert not {"Vary", "Set-Cookie"} & style.headers.keys()
    # The text of visitors is never markup.
    cookie = signed_in(portal, "<i>\"'&{{ 7*7 }}")
    shown = ask(portal, "/portable/", cookie)
    assert "&lt;i&gt;&#34;&#39;&amp;{{ 7*7 }}" in shown.body
    noted = ask(portal, "/portable/write-note", cookie, shown.form(note='"><script>'))
    assert "&#34;&gt;&lt;script&gt;" in ask(portal, "/portable/", noted.cookie).body
    assert "<script" not in ask(portal, "/portable/", noted.cookie).body


# --- without a server ---------------------------------------------------------------------------


def _login(name: str) -> dict[str, object]:
    return {"entity_id": name, "session_index": name}


def test_plain_logins_of_two_tabs_are_merged() -> None:
    first, second, third, fourth = map(_login, ("1", "2", "3", "4"))
    base = [first, second]
    assert merge_plain(base, [first, second, third], [*base, fourth]) == [*base, third, fourth]
    assert merge_plain(base, [second, third], base) == [second, third]
    assert merge_plain(base, [*base, third], [second]) == [second, third]
    assert merge_plain(None, [third], [fourth]) == [third, fourth]


@pytest.fixture
def resources(tmp_path: Path) -> Iterator[PortalResources]:
    with contextlib.closing(PortalResources(tmp_path / "var")) as opened:
        yield opened


def test_ring_of_all_profiles_announces_one_key_at_a_time_up_to_a_limit(
    resources: PortalResources,
) -> None:
    keys, keeper = resources.keys, Keeper(resources.open("portable"))
    assert all(resources.open(name).key_source is keys for name in PROFILES)
    now = keys.ring.updated_at

    def rotate_at(moment: int) -> str:
        keys.config = replace(keys.config, clock=lambda: moment)
        return rotate_keys(Submission(keeper.session(), {}, keeper, resources))

    assert rotate_at(now) == "key-announced"
    assert rotate_at(now + ANNOUNCE - 1) == "key-is-coming"
    assert {rotate_at(now + turn * ANNOUNCE) for turn in range(1, MAX_KEYS - 1)} == {
        "key-announced"
    }
    assert rotate_at(now + MAX_KEYS * ANNOUNCE) == "enough-keys"
    assert len(keys.ring.keys) == MAX_KEYS


def test_ring_that_cannot_be_written_is_reported(
    resources: PortalResources, tmp_path: Path
) -> None:
    keeper, ring = Keeper(resources.open("portable")), resources.keys.ring
    (tmp_path / "var" / "keys.json").write_text("{}")
    form = Submission(keeper.session(), {}, keeper, resources)
    assert rotate_keys(form) == "keys-unchanged"
    assert resources.keys.ring is ring

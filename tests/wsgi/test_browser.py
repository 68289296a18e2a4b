"""Parts that the browser keeps: a model of a browser runs what the pages' script would do."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse
from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from sealedstate import ConfigurationError, Settings
from sealedstate._request.load import COPY
from sealedstate._stored.table import Entry
from sealedstate._wire import cbor
from sealedstate.deployment import Deployment
from sealedstate.errors import PartUnavailable
from sealedstate.key_sources import StaticKeys
from sealedstate.session import id_bytes
from sealedstate.testing import ScriptedStorage
from sealedstate_wsgi import SealedSessionMiddleware
from sealedstate_wsgi.browser import HEADERS, PATH, SCRIPT, BrowserParts
from tests.support.documents import Document
from tests.support.identity_providers import RING
from tests.support.jar import Clock

HERE = "http://127.0.0.1"
NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
FETCH = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Sec-Fetch-Site": "same-origin"}
NOW = 1_800_000_000


@Request.application
def app(request: Request) -> Response:
    session = request.environ["sealedstate.session"]
    match request.path:
        case "/agree":
            session.subject = "ann"
            session["consent"] = {"terms": 3, "said": request.form["said"]}
            return redirect("/plain", 303)
        case "/logout":
            session.invalidate()
            return redirect("/out", 303)
        case "/careful":
            try:
                return Response(session["consent"]["said"])
            except PartUnavailable:
                return Response("please agree again", 409)
        case "/consent":
            return Response(session["consent"]["said"])
        case "/note":
            session["note"] = session["consent"]["said"]
        case "/change":
            session["consent"]["said"] = "changed"
        case "/withdraw":
            del session["consent"]
    return Response("plain")


@dataclass
class Browser:
    """A browser with one window. `storage` is None where it is blocked, `scripts` False without."""

    client: Client
    storage: dict[str, str] | None = field(default_factory=dict)
    scripts: bool = True
    pages: list[str] = field(default_factory=list)

    def post(self, path: str, **form: str) -> TestResponse:
        return self.client.post(path, base_url=HERE, data=form)

    def fetch(self, path: str, **form: str) -> TestResponse:
        return self.client.post(path, base_url=HERE, data=form, headers=FETCH)

    def open(self, path: str) -> TestResponse:
        """Navigate, and do what the pages on the way ask for; `pages` lists them."""
        self.pages.clear()
        for _ in range(5):
            answer = self.client.get(path, base_url=HERE, headers=NAVIGATION)
            data = attributes(answer)
            if not data:
                return answer
            self.pages.append(data["mode"])
            assert answer.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
            if self.scripts:
                self.run_script(data)
            else:
                continued = self.post(PATH, back=data["back"])
                assert continued.status_code == 403  # without Fetch Metadata
                continued = self.fetch(PATH, back=data["back"])
                assert (continued.status_code, continued.location) == (303, path)
        raise AssertionError(f"a loop: {self.pages}")

    def run_script(self, data: dict[str, str]) -> None:
        if self.storage is None:
            if data["mode"] == "read":
                self.fetch(PATH, part=data["part"], brought="")
            return
        if data["mode"] == "write":
            self.storage[data["key"]] = data["text"]
            self.fetch(PATH, part=data["part"], kept=self.storage.get(data["key"], ""))
        elif data["mode"] == "read":
            self.fetch(PATH, part=data["part"], brought=self.storage.get(data["key"], ""))
        else:
            for key in [key for key in self.storage if key.startswith(data["prefix"])]:
                del self.storage[key]


def attributes(answer: TestResponse) -> dict[str, str]:
    """What the form of a page says to the script; nothing for a page of the application."""
    found = {
        key: html.unescape(text) for key, text in re.findall(r'data-(\w+)="(.*?)"', answer.text)
    }
    back = re.search(r'name=back value="(.*?)"', answer.text)
    return found | {"back": back[1]} if back is not None else {}


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


def application(clock: Clock, **given: Any) -> SealedSessionMiddleware:
    settings = Settings(
        keys=StaticKeys(RING),
        secure=False,
        clock=clock,
        part_policies={"consent": "browser"},
        **given,
    )
    deployment = Deployment.open(settings)
    return SealedSessionMiddleware(BrowserParts(app, deployment), deployment)


@pytest.fixture
def browser(clock: Clock) -> Browser:
    return Browser(Client(application(clock)))


def cookie(browser: Browser) -> str:
    found = browser.client.get_cookie("s", "127.0.0.1")
    assert found is not None
    return found.value


def test_part_leaves_the_cookie_and_comes_back_where_it_is_read(
    browser: Browser, clock: Clock
) -> None:
    browser.post("/agree", said="x" * 1000)
    assert len(cookie(browser)) > 1400
    assert (browser.open("/plain?a=b").text, browser.pages) == ("plain", ["write"])
    assert len(cookie(browser)) < 250
    assert (browser.open("/plain").text, browser.pages) == ("plain", [])
    assert (browser.open("/consent").text, browser.pages) == ("x" * 1000, ["read"])
    assert (browser.open("/consent").text, browser.pages) == ("x" * 1000, [])
    clock.forward(1)
    browser.client.delete_cookie(
        "sealedstate-write", domain="127.0.0.1"
    )  # five minutes have passed
    assert (browser.open("/plain").text, browser.pages) == ("plain", ["write"])
    assert len(cookie(browser)) < 250
    assert browser.storage is not None
    assert not any("x" * 20 in text for text in browser.storage.values())


def test_browser_without_storage_or_scripts_is_asked_once_and_loses_nothing(clock: Clock) -> None:
    for limits in ({"storage": None}, {"scripts": False}):
        browser = Browser(Client(application(clock)), **limits)
        browser.post("/agree", said="yes")
        assert (browser.open("/plain?a=%2F").text, browser.pages) == ("plain", ["write"])
        for path, text in (("/plain", "plain"), ("/consent", "yes")):
            assert (browser.open(path).text, browser.pages) == (text, [])


def test_storage_that_was_cleared_is_asked_once_and_then_the_application_answers(
    browser: Browser,
) -> None:
    browser.post("/agree", said="yes")
    browser.open("/plain")
    assert browser.storage is not None
    browser.storage.clear()
    answer = browser.open("/careful")
    assert (answer.text, browser.pages) == ("please agree again", ["read"])
    assert browser.open("/careful").status_code == 409
    with pytest.raises(PartUnavailable):
        browser.open("/consent")
    browser.post("/agree", said="again")
    assert browser.open("/consent").text == "again"


def test_tab_whose_page_is_never_finished_does_not_keep_others_from_reading(
    browser: Browser,
) -> None:
    browser.post("/agree", said="yes")
    browser.open("/plain")
    for _ in range(2):
        page = browser.client.get("/consent", base_url=HERE, headers=NAVIGATION)
        assert attributes(page)["mode"] == "read"
    assert (browser.open("/consent").text, browser.pages) == ("yes", ["read"])


def test_pages_that_nothing_answers_come_to_an_end(browser: Browser) -> None:
    browser.post("/agree", said="yes")
    browser.open("/plain")
    modes = []
    for _ in range(6):
        page = browser.client.get("/careful", base_url=HERE, headers=NAVIGATION)
        modes.append(attributes(page).get("mode", page.text))
    assert modes == ["read"] * 3 + ["please agree again"] * 3
    browser.client.set_cookie("sealedstate-read", "-1", domain="127.0.0.1")
    assert browser.open("/careful").status_code == 409


def test_part_that_is_read_without_scripts_costs_one_button(browser: Browser) -> None:
    browser.post("/agree", said="yes")
    browser.open("/plain")
    browser.scripts = False
    assert (browser.open("/careful").status_code, browser.pages) == (409, ["read"])
    browser.scripts, browser.storage = True, None
    assert (browser.open("/careful").status_code, browser.pages) == (409, [])


def test_only_navigations_get_a_page(browser: Browser) -> None:
    browser.post("/agree", said="yes")
    others: list[dict[str, str]] = [{}, FETCH, {**NAVIGATION, "Sec-Fetch-Dest": "iframe"}]
    others += [{**NAVIGATION, "Sec-Purpose": "prefetch"}, {**NAVIGATION, "Purpose": "prefetch"}]
    for headers in others:
        answer = browser.client.get("/consent", base_url=HERE, headers=headers)
        assert answer.text == "yes"
    browser.open("/plain")
    for headers in others:
        answer = browser.client.get("/careful", base_url=HERE, headers=headers)
        assert answer.text == "please agree again"
    assert browser.client.post("/careful", base_url=HERE, headers=NAVIGATION).status_code == 409


@pytest.fixture
def store(clock: Clock) -> ScriptedStorage:
    return ScriptedStorage(clock)


@pytest.fixture
def stored(clock: Clock, store: ScriptedStorage) -> Browser:
    """A browser of an application with a store, which has moved its part."""
    weak = {"accept_weak_store_for": ["revocation"]}
    browser = Browser(Client(application(clock, storage=store, **weak)))
    browser.post("/agree", said="yes")
    assert (browser.open("/plain").text, browser.pages) == ("plain", ["write"])
    return browser


def copy_of(browser: Browser) -> Entry | None:
    """What the store has of the part that the browser keeps."""
    keeper = browser.client.application.keeper  # type: ignore[attr-defined]
    session = keeper.session(f"s={cookie(browser)}")
    assert keeper.deployment.parts is not None
    found: Entry | None = keeper.deployment.parts.recall(id_bytes(session), "consent" + COPY)
    return found


def test_with_a_store_a_client_that_is_no_browser_reads_the_copy(stored: Browser) -> None:
    before = cookie(stored)
    for headers in ({}, FETCH, {**NAVIGATION, "Sec-Fetch-Dest": "iframe"}):
        answer = stored.client.get("/careful", base_url=HERE, headers=headers)
        assert answer.text == "yes"
    assert (stored.open("/consent").text, stored.pages) == ("yes", [])
    assert cookie(stored) == before


def test_part_that_was_read_from_its_copy_stays_in_the_browser_until_it_is_changed(
    stored: Browser, clock: Clock
) -> None:
    stored.client.get("/note", base_url=HERE)
    assert (stored.open("/plain").text, stored.pages) == ("plain", [])
    clock.forward(1)
    stored.client.get("/change", base_url=HERE)
    assert stored.client.get("/consent", base_url=HERE).text == "changed"
    assert stored.open("/plain").text == "plain"
    assert stored.pages == ["write"]
    assert stored.client.get("/consent", base_url=HERE).text == "changed"


def test_lost_or_other_copy_is_not_read_and_the_browser_brings_the_part(stored: Browser) -> None:
    keeper = stored.client.application.keeper  # type: ignore[attr-defined]
    deployment, session = keeper.deployment, keeper.session(f"s={cookie(stored)}")
    rows = id_bytes(session), "consent" + COPY
    found = copy_of(stored)
    assert found is not None
    for data in (None, cbor.encode({"terms": 3, "said": "no"}, "value")):
        deployment.parts.delete(*rows)
        if data is not None:
            ends = NOW + 3600
            deployment.parts.spill(*rows, data, known=None, base=None, expires_at=ends)
        assert stored.client.get("/careful", base_url=HERE).status_code == 409
    assert (stored.open("/consent").text, stored.pages) == ("yes", ["read"])


@pytest.mark.parametrize("path", ["/withdraw", "/logout"])
def test_copy_is_deleted_with_its_part(stored: Browser, path: str) -> None:
    assert copy_of(stored) is not None
    before = stored.client.get_cookie("s", "127.0.0.1")
    stored.post(path)
    assert before is not None
    stored.client.set_cookie("s", before.value, domain="127.0.0.1")
    assert copy_of(stored) is None


def test_store_that_is_down_moves_nothing_and_reads_no_copy(
    stored: Browser, store: ScriptedStorage
) -> None:
    store.fail(context="sealedstate.part")
    assert stored.client.get("/careful", base_url=HERE).status_code == 409
    assert (stored.open("/consent").text, stored.pages) == ("yes", ["read"])
    stored.client.delete_cookie("sealedstate-write", domain="127.0.0.1")
    page = attributes(stored.client.get("/plain", base_url=HERE, headers=NAVIGATION))
    assert page["mode"] == "write"
    assert stored.fetch(PATH, part="consent", kept=page["text"]).status_code == 503
    assert stored.client.get("/consent", base_url=HERE).text == "yes"


def test_neither_an_older_value_nor_that_of_another_user_is_taken(
    browser: Browser, clock: Clock
) -> None:
    texts: list[dict[str, str]] = []
    for said in ("first", "second"):
        browser.post("/agree", said=said)
        browser.open("/plain")
        assert browser.storage is not None
        texts.append(dict(browser.storage))
        clock.forward(1)
    other = Browser(browser.client.__class__(browser.client.application))
    other.post("/agree", said="of another")
    other.open("/plain")
    assert other.storage is not None
    (first,), (foreign,) = texts[0].values(), other.storage.values()
    altered = first[:-1] + ("A" if first[-1] != "A" else "B")
    for text in (first, foreign, altered, "", "junk"):
        before = cookie(browser)
        assert browser.fetch(PATH, part="consent", brought=text).status_code == 409
        assert browser.fetch(PATH, part="consent", kept=text).status_code == 409
        assert cookie(browser) == before
    second = next(text for text in texts[1].values() if text != first)
    assert browser.fetch(PATH, part="other", brought=second).status_code == 409
    for _ in range(2):  # a replay changes nothing
        assert browser.fetch(PATH, part="consent", brought=second).status_code == 204
    assert browser.open("/consent").text == "second"


def test_part_is_withdrawn_by_a_form_that_brings_nothing(browser: Browser) -> None:
    browser.post("/agree", said="yes")
    browser.open("/plain")
    assert browser.storage is not None
    (text,) = browser.storage.values()
    assert browser.post("/withdraw").status_code == 200
    assert browser.fetch(PATH, part="consent", brought=text).status_code == 409
    with pytest.raises(KeyError, match="consent"):
        browser.client.get("/consent", base_url=HERE)


def test_text_that_another_tab_has_outrun_is_not_named(browser: Browser) -> None:
    browser.post("/agree", said="first")
    page = attributes(browser.client.get("/plain", base_url=HERE, headers=NAVIGATION))
    browser.post("/agree", said="second")
    assert browser.fetch(PATH, part="consent", kept=page["text"]).status_code == 409
    assert browser.open("/consent").text == "second"


def test_logout_clears_the_storage_at_the_next_page(browser: Browser) -> None:
    browser.post("/agree", said="yes")
    browser.open("/plain")
    assert browser.storage
    browser.storage["other"] = "of the application"
    browser.post("/logout")
    assert (browser.open("/out").text, browser.pages) == ("plain", ["clear"])
    assert browser.storage == {"other": "of the application"}
    assert (browser.open("/out").text, browser.pages) == ("plain", [])


def test_part_is_brought_and_sealed_again_before_its_seal_expires(
    browser: Browser, clock: Clock
) -> None:
    browser.post("/agree", said="yes")
    browser.open("/plain")
    clock.forward(7 * 3600)
    browser.post("/agree", said="yes")  # signs in again
    browser.open("/plain")
    assert browser.open("/consent").text == "yes"


def test_posts_of_other_sites_and_forged_ways_back_are_refused(browser: Browser) -> None:
    browser.post("/agree", said="yes")
    for site in ("cross-site", "same-site", "none"):
        headers = {**FETCH, "Sec-Fetch-Site": site}
        answer = browser.client.post(PATH, base_url=HERE, data={"back": "x"}, headers=headers)
        assert answer.status_code == 403
    assert browser.client.get(PATH, base_url=HERE, headers=FETCH).status_code == 403
    assert browser.fetch(PATH, back="//evil.example").status_code == 409
    assert browser.fetch(PATH, part="consent", brought="x" * (1 << 21)).status_code == 413


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example", "/%5Cevil.example"])
def test_way_back_leads_to_this_host(browser: Browser, path: str) -> None:
    browser.post("/agree", said="yes")
    environ = {"PATH_INFO": path.replace("%5C", "\\"), "HTTP_COOKIE": f"s={cookie(browser)}"}
    metadata = {f"HTTP_{name.upper().replace('-', '_')}": word for name, word in NAVIGATION.items()}
    answer = Client(browser.client.application, use_cookies=False).get(
        "/", base_url=HERE, environ_overrides={**environ, **metadata}
    )
    location = browser.fetch(PATH, back=attributes(answer)["back"]).location
    assert location is not None
    assert re.match(r"/[^/\\]", location)


def test_policy_of_the_pages_names_the_script_and_the_path_is_checked(clock: Clock) -> None:
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert "</" not in SCRIPT
    with pytest.raises(ConfigurationError, match="path"):
        BrowserParts(app, application(clock).keeper.deployment, path="//evil.example")


def test_documented_application_asks_again_for_what_the_browser_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = Document("browser.md")
    names: dict[str, Any] = {}
    exec(document.block("view"), names)

    @Request.application
    def documented(request: Request) -> Response:
        session = request.environ["sealedstate.session"]
        if request.method == "POST":
            session["consent"] = "yes"
        return Response(str(names["consent_of"](session)))

    monkeypatch.setenv("SEALEDSTATE_KEYS", RING.keys[0].export())
    names["app"] = documented
    exec(document.block("code"), names)
    client = Client(names["application"])

    def visit(method: str, path: str = "/", data: Any = None, **headers: str) -> TestResponse:
        headers = {name.replace("_", "-"): word for name, word in headers.items()}
        return client.open(
            path, method=method, base_url="https://localhost", data=data, headers=headers
        )

    visit("POST")
    page = attributes(visit("GET", Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="document"))
    kept = {"part": "consent", "kept": page["text"]}
    assert visit("GET").text == "yes"
    assert visit("POST", PATH, kept, Sec_Fetch_Site="same-origin").status_code == 204
    assert visit("GET").text == "None"
    assert client.get_cookie("__Host-sealedstate-write", "localhost") is None
    assert "`__Host-sealedstate-write`" in document.text

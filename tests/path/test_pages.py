"""The pages of the path: probes, the chain without scripts, results, and what they refuse."""

from __future__ import annotations

import html
import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import anyio
import pytest

from sealedstate import Deployment, Keeper, Key, Settings
from sealedstate.errors import ProtectedTextRefused
from sealedstate.path import PathPages
from sealedstate.path._engine import judge_cross_site
from sealedstate.path._html import SCRIPT
from sealedstate.path._pages import PROGRESS, STEPS, code_of, server_name
from sealedstate.testing import FakeClock
from sealedstate_asgi import PathApplication as PathApplicationASGI
from sealedstate_wsgi import PathApplication
from tests.support.client import Answer, ask
from tests.support.jar import Jar

MOUNT = "/help/path"
KEY = Key.generate(os.urandom)


@dataclass
class Visitor:
    """A browser without scripts. `most`: the Cookie field that its proxy takes.

    `refuses_posts`: whether the proxy refuses forms of other sites; `holds_back`: the trial cookies
    that the browser does not send with them, and with the redirect that answers them. `place`:
    where the pages are for the browser; the application sees them at MOUNT.
    """

    settings: Settings
    most: int = 100_000
    refuses_posts: bool = False
    holds_back: tuple[Sequence[str], Sequence[str]] = (("lax", "strict"), ("strict",))
    other: str = ""
    place: str = MOUNT
    jar: Jar = field(default_factory=Jar)
    addresses: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        keeper = Keeper(self.settings)
        self.pages = PathPages(keeper)
        self.application = PathApplication(keeper)
        self.link = self.pages.link(f"https://app.example{self.place}", "ticket 7", self.other)

    def send(
        self, address: str, method: str = "GET", body: str = "", *, is_cross: bool = False
    ) -> Answer:
        """One request, with the cookies of this place. `is_cross`: by a page of another site."""
        parts = urlsplit(address)
        self.addresses.append(address)
        cookie = self.jar.header(parts.path)
        if len(cookie) > self.most or (self.refuses_posts and is_cross):
            return Answer(431)
        extras: dict[str, object] = {
            "SCRIPT_NAME": MOUNT,
            "PATH_INFO": parts.path.removeprefix(self.place),
            "QUERY_STRING": parts.query,
            "wsgi.url_scheme": "https",
            "SERVER_SOFTWARE": "gunicorn/27.0.1",
            "HTTP_USER_AGENT": "A browser",
            "HTTP_VIA": "1.1 proxy",
            "HTTP_AUTHORIZATION": "Basic secret",
        }
        if is_cross:
            held = self.holds_back[method != "POST"]
            pairs = [pair for pair in cookie.split("; ") if pair[6:-2] not in held]
            cookie = "; ".join(pairs)
            extras |= {"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_ORIGIN": "null"}
        if method == "POST":
            extras |= {"wsgi.input": BytesIO(body.encode()), "CONTENT_LENGTH": str(len(body))}
        answer = ask(self.application, "/", cookie, method, extras)
        self.jar.receive(answer.set_cookies)
        return answer

    def open(self, address: str, answer: Answer | None = None) -> Answer:
        """Follow the redirects to a page, and press the button that posts as another site."""
        answer, is_cross = answer or self.send(address), False
        while True:
            if answer.status == 303:
                address = urljoin(address, answer.all("Location")[0])
                answer = self.send(address, is_cross=is_cross)
            elif found := re.search(rb'action="(.*?)" method="post"><input.*"(.*)">', answer.body):
                if b"One more step" not in answer.body:
                    return answer
                is_cross = True
                address = urljoin(address, html.unescape(found[1].decode()))
                body = urlencode({"found": found[2].decode()})
                answer = self.send(address, "POST", body, is_cross=True)
            else:
                return answer

    def open_to_the_form(self) -> str:
        """The address of the page that posts as another site."""
        answer = self.send(self.page("/measured"), "POST", 'measured={"kept":true}')
        return urljoin(self.addresses[-1], answer.all("Location")[0])

    def page(self, place: str) -> str:
        parts = urlsplit(self.link)
        joint = "&" if "?" in place else "?"
        return f"https://app.example{self.place}{place}{joint}{parts.query}"

    def report(self, answer: Answer) -> tuple[str, dict[str, Any]]:
        """The code and the facts of a result page."""
        text = answer.body.decode()
        (code,) = re.findall(r"<code>(.*?)</code>", text)
        (sealed,) = re.findall(r"<textarea readonly>(.*?)</textarea>", text)
        assert code == code_of(sealed)
        return code, self.pages.read_report(sealed)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def visitor(clock: FakeClock) -> Visitor:
    return Visitor(Settings(keys=[KEY.export()], clock=clock))


def trial_cookies(jar: Jar) -> str:
    return jar.header(f"{MOUNT}/trial/step")


def test_link_opens_the_pages_for_an_hour_and_no_other_text_does(
    visitor: Visitor, clock: FakeClock
) -> None:
    assert visitor.link.startswith(f"https://app.example{MOUNT}/?link=")
    assert visitor.send(visitor.link).status == 200
    other = Visitor(Settings(keys=[Key.generate(os.urandom).export()], clock=clock))
    for place in ("/", "/probe", "/trial/step", "/script.js", "/trial/probe"):
        assert visitor.send(visitor.page(place)).status in (200, 303)
        for query in ("", "link=", "link=x", urlsplit(other.link).query):
            answer = visitor.send(f"https://app.example{MOUNT}{place}?{query}")
            assert (answer.status, answer.set_cookies) == (404, [])
    clock.advance(3600_000)
    assert visitor.send(visitor.link).status == 404


def test_pages_have_a_strict_policy_and_no_cache_keeps_them(visitor: Visitor) -> None:
    answer = visitor.send(visitor.link)
    (policy,) = answer.all("Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.all("Cache-Control") == ["no-store, private"]
    assert answer.all("Referrer-Policy") == ["no-referrer"]
    text = answer.body.decode()
    assert not re.search(r"\son\w+=|javascript:|<script>|style=", text)
    assert visitor.send(visitor.page("/script.js")).body.decode() == SCRIPT


def test_head_has_the_fields_of_a_page_and_no_body(visitor: Visitor) -> None:
    page, head = visitor.send(visitor.link), visitor.send(visitor.link, "HEAD")
    assert (head.status, head.headers, head.body) == (200, page.headers, b"")
    assert visitor.send(visitor.link, "PUT").status == 404


def test_chain_without_scripts_reaches_a_result_and_leaves_no_cookie(
    visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sealedstate.path"):
        answer = visitor.open(visitor.page("/trial/step?step=0"))
    assert b"Your browser and the network carry what this site needs." in answer.body
    code, facts = visitor.report(answer)
    assert facts["cookie"]["passed"] == STEPS[-1]
    assert (facts["kept"], facts["deleted"], facts["fits"]) == (True, True, True)
    assert (facts["label"], facts["server"], facts["profile"]) == (
        "ticket 7",
        "gunicorn",
        "portable",
    )
    assert facts["forwarded"] == {"via": "1.1 proxy"}
    assert "secret" not in str(facts)
    assert trial_cookies(visitor.jar) == ""
    assert any(code in record.getMessage() for record in caplog.records)
    assert len(visitor.addresses) == len(STEPS) + 5
    assert visitor.jar.header(f"{MOUNT}/") == ""


@pytest.mark.parametrize("place", ["/shop/help/path", "/help/a%20b%3Bc", "/path"])
def test_proxy_may_have_another_path_for_the_pages(place: str, clock: FakeClock) -> None:
    visitor = Visitor(Settings(keys=[KEY.export()], clock=clock), most=8180, place=place)
    assert visitor.open(visitor.page("/trial/step?step=0")).status == 431
    _, facts = visitor.report(visitor.send(visitor.page("/failed"), "POST", "seen=431"))
    assert (facts["kept"], facts["cookie"]["passed"]) == (True, 7600)
    visitor.most = 100_000
    _, facts = visitor.report(visitor.open(visitor.page("/trial/step?step=0")))
    assert (facts["kept"], facts["deleted"], facts["fits"]) == (True, True, True)
    assert visitor.jar.header(f"{place}/trial/step") == ""
    (location,) = visitor.send(visitor.page("")).all("Location")
    assert urljoin(visitor.page(""), location) == visitor.link


def test_trial_cookies_that_the_path_drops_are_deleted_too(visitor: Visitor) -> None:
    visitor.open(visitor.page("/trial/step?step=0"))
    lines = visitor.send(visitor.page(f"/trial/step?step={len(STEPS)}")).set_cookies
    assert lines == []
    visitor.jar.receive([f"t6=0; Path={MOUNT}/trial"])
    lines = visitor.send(visitor.page(f"/trial/step?step={len(STEPS)}")).set_cookies
    assert [line.partition("=")[0] for line in lines] == [f"t{step}" for step in range(len(STEPS))]


@pytest.mark.parametrize(("most", "step"), [(2000, 0), (7000, 2), (8180, 3), (13_000, 5)])
def test_error_page_in_between_leads_to_a_result_by_a_button(
    visitor: Visitor, most: int, step: int
) -> None:
    visitor.most = most
    assert visitor.open(visitor.page("/trial/step?step=0")).status == 431
    assert trial_cookies(visitor.jar) != ""
    answer = visitor.send(visitor.page("/failed"), "POST", "seen=431")
    assert trial_cookies(visitor.jar) == ""
    _, facts = visitor.report(answer)
    limit = facts["cookie"]
    assert limit == {"passed": STEPS[step], "refused": STEPS[step + 1], "answer": "431"}
    assert limit["passed"] <= most < limit["refused"]
    assert facts["fits"] == (most >= 7600)
    expected = b"carry what this site needs" if facts["fits"] else b"refuses cookies"
    assert expected in answer.body


def test_trial_cookies_reach_no_other_page_and_end_after_a_minute(visitor: Visitor) -> None:
    visitor.most = 8000
    address, lines = visitor.page("/trial/step?step=0"), []
    answer = visitor.send(address)
    while answer.status == 303:
        lines += answer.set_cookies
        address = urljoin(address, answer.all("Location")[0])
        answer = visitor.send(address)
    for query in ("set_cookie=3000", "attributes=1"):
        lines += visitor.send(visitor.page(f"/probe?{query}")).set_cookies
    trials = [line for line in lines if not line.startswith(f"{PROGRESS}=")]
    assert len(trials) == 9
    for line in trials:
        assert f"; Path={MOUNT}/trial;" in line
        assert int(re.findall(r"Max-Age=(\d+)", line)[0]) <= 60
    for path in ("/", "/help", MOUNT, f"{MOUNT}/", f"{MOUNT}/probe", "/helper"):
        assert "t0=" not in visitor.jar.header(path)
    assert PROGRESS not in visitor.jar.header("/help")


def test_coming_back_from_an_error_page_leaves_no_trial_cookie(visitor: Visitor) -> None:
    visitor.most = 8000
    visitor.open(visitor.page("/trial/step?step=0"))
    visitor.send(visitor.link)
    # The step that failed is still known.
    assert trial_cookies(visitor.jar) == f"{PROGRESS}=4"
    answer = visitor.send(visitor.page("/failed"), "POST", "seen=431")
    assert visitor.report(answer)[1]["cookie"]["passed"] == 7600
    assert trial_cookies(visitor.jar) == ""


ORDINARY = {
    "kept": "none unset lax strict",
    "post": "none unset",
    "redirect": "none unset lax",
    "site": "cross-site",
    "origin": "null",
}


def test_form_of_another_site_shows_which_cookies_come(visitor: Visitor) -> None:
    answer = visitor.open(visitor.page("/trial/step?step=0"))
    facts = visitor.report(answer)[1]
    assert (facts["cross_site"], facts["problems"]) == (ORDINARY, [])
    assert facts["cookie"]["passed"] == STEPS[-1]


@pytest.mark.parametrize(
    ("held", "problems", "sentence"),
    [
        ((("none", "lax", "strict"), ("strict",)), ["samesite-none"], b"carry what"),
        (((), ()), ["samesite-ignored"], b"carry what"),
        ((("lax", "strict"), ("lax", "strict")), ["lax-after-post"], b"changes what comes back"),
    ],
)
def test_cookies_that_come_otherwise_with_a_form_of_another_site_are_a_problem(
    visitor: Visitor, held: Any, problems: list[str], sentence: bytes
) -> None:
    visitor.holds_back = held
    answer = visitor.open(visitor.page("/trial/step?step=0"))
    assert visitor.report(answer)[1]["problems"] == problems
    assert sentence in answer.body


@pytest.mark.parametrize(
    ("seen", "problems"),
    [
        (ORDINARY, []),
        ({**ORDINARY, "site": "", "origin": ""}, ["cross-site-unseen"]),
        ({**ORDINARY, "site": ""}, []),
        ({**ORDINARY, "site": "same-site"}, ["not-cross-site"]),
        ({**ORDINARY, "kept": "unset lax strict", "post": "unset"}, ["samesite-none"]),
        ({}, ["cross-site-unseen", "samesite-none"]),
    ],
)
def test_cookies_of_a_form_of_another_site_are_judged(
    seen: dict[str, str], problems: list[str]
) -> None:
    assert judge_cross_site(seen) == problems


def test_refused_form_of_another_site_leads_to_a_result_by_a_button(visitor: Visitor) -> None:
    visitor.refuses_posts = True
    assert visitor.open(visitor.page("/trial/step?step=0")).status == 431
    answer = visitor.send(visitor.page("/failed"), "POST", "seen=no+page+at+all")
    facts = visitor.report(answer)[1]
    assert facts["cross_site"] == {"answer": "no page at all"}
    assert (facts["problems"], facts["cookie"]["passed"]) == (["cross-site-post"], STEPS[-1])
    assert b"changes what comes back" in answer.body
    assert visitor.jar.header(f"{MOUNT}/trial/step") == ""


def test_page_that_posts_is_in_a_sandbox_or_on_the_other_site_of_the_link(clock: FakeClock) -> None:
    for other in ("", f"https://idp.example{MOUNT}"):
        visitor = Visitor(Settings(keys=[KEY.export()], clock=clock), other=other)
        answer = visitor.open(visitor.page("/trial/step?step=0"))
        assert visitor.report(answer)[1]["cross_site"] == ORDINARY
        posts = [address for address in visitor.addresses if "/post?" in address]
        assert len(posts) == bool(other)
        assert all(address.startswith(f"{other}/post?") for address in posts)
    page = visitor.send(visitor.page("/post?found=%22%3E%3Cscript%3E"))
    (policy,) = page.all("Content-Security-Policy")
    assert "form-action https://app.example;" in policy
    assert "sandbox" not in policy
    assert b'action="https://app.example/help/path/trial/crossed?' in page.body
    assert b'"><script>' not in page.body
    # A link that names no other site has no such page.
    alone = Visitor(Settings(keys=[KEY.export()], clock=clock))
    assert alone.send(alone.page("/post?found=x")).status == 404
    (policy,) = alone.send(alone.open_to_the_form()).all("Content-Security-Policy")
    assert policy.startswith("sandbox allow-forms allow-scripts; default-src 'none'")
    assert "form-action 'self'" in policy


def test_measurements_of_one_link_are_not_those_of_another(visitor: Visitor) -> None:
    answer = visitor.send(visitor.page("/measured"), "POST", 'measured={"kept":true}')
    found = parse_qs(urlsplit(answer.all("Location")[0]).query)["found"][0]
    other = PathPages(Keeper(visitor.settings)).link("https://app.example")
    for text, query in ((found, urlsplit(other).query), ("x", urlsplit(visitor.link).query)):
        place = f"https://app.example{MOUNT}/trial/landed?{query}&found={text}"
        assert b"did not get to its end" in visitor.send(place).body


def test_browser_that_keeps_no_cookies_is_told_so_without_a_loop(visitor: Visitor) -> None:
    visitor.jar.receive = lambda lines: None  # type: ignore[method-assign]
    answer = visitor.open(visitor.page("/trial/step?step=0"))
    assert b"keeps no cookies" in answer.body
    assert len(visitor.addresses) <= 4


def test_names_and_sizes_of_other_cookies_are_reported_but_no_values(visitor: Visitor) -> None:
    name = visitor.pages._cookie_name
    visitor.jar.receive([f"{name}=SECRET-ONE; Path=/; Secure; HttpOnly"])
    visitor.jar.receive(["analytics=SECRET-TWO; Path=/", "analytics=SECRET; Path=/help"])
    answer = visitor.open(visitor.page("/trial/step?step=0"))
    _, facts = visitor.report(answer)
    assert facts["cookies"] == {name: 10, "analytics": 10}
    assert facts["repeated"] == ["analytics"]
    assert "SECRET" not in str(facts)


def test_two_cookies_of_the_sessions_name_are_what_the_visitor_hears_of(clock: FakeClock) -> None:
    settings = Settings(keys=[KEY.export()], clock=clock, cookie_name="app")
    visitor = Visitor(settings)
    visitor.jar.receive(["app=1; Path=/", "app=2; Path=/; Domain=example"])
    answer = visitor.open(visitor.page("/trial/step?step=0"))
    assert b"two sign-in cookies of one name" in answer.body
    assert visitor.report(answer)[1]["repeated"] == ["app"]


def test_measurements_of_the_script_become_a_report(visitor: Visitor) -> None:
    measured = {
        "kept": True,
        "deleted": True,
        "storage": False,
        "clock": -7200,
        "left": 0,
        "cookie": {"passed": 16_384, "refused": None, "answer": ""},
        "set_cookie": {"passed": 4000, "refused": 4096, "answer": "502"},
        "response": {"passed": 4000, "refused": 4100, "answer": "502"},
        "unknown": "x",
    }
    body = urlencode({"measured": json.dumps(measured)})
    address = visitor.page("/measured")
    answer = visitor.open(address, visitor.send(address, "POST", body))
    _, facts = visitor.report(answer)
    assert {name: facts[name] for name in measured if name != "unknown"} == {
        name: value for name, value in measured.items() if name != "unknown"
    }
    assert "unknown" not in facts
    assert facts["fitting"] == ["tight", "portable"]
    assert b"The clock of your computer is wrong" in answer.body


@pytest.mark.parametrize(
    "measured",
    [
        "",
        "[" * 5000,
        "null",
        "[1]",
        '{"cookie": 7, "clock": true, "kept": 3}',
        '{"cookie": {"passed": -1}, "clock": 1e400}',
        '{"cookie": {"passed": "x", "refused": []}, "set_cookie": {}}',
        '{"failed": "<script>alert(1)</script>"}',
    ],
)
def test_measurements_of_any_form_make_a_page(visitor: Visitor, measured: str) -> None:
    body = urlencode({"measured": measured})
    answer = visitor.send(visitor.page("/measured"), "POST", body)
    assert answer.status == 200
    assert b"did not get to its end" in answer.body
    assert b"<script>" not in answer.body


def test_redirects_lead_nowhere_else(visitor: Visitor) -> None:
    for place in (
        "/trial/step?step=0&next=https://evil.example",
        "/trial/step?step=//evil.example",
        "/trial/step?step=gone&passed=https://evil.example",
        "/trial/step?step=99",
        "",
    ):
        answer = visitor.send(visitor.page(place))
        for location in answer.all("Location"):
            assert re.fullmatch(r"(step|path/)\?link=[\w%-]+[\w&=]*", location)
    answer = visitor.open(visitor.page("/trial/step?step=gone&passed=1%0d%0aX:%201"))
    assert answer.status == 200


def test_probe_reports_what_came_and_answers_in_the_size_asked_for(visitor: Visitor) -> None:
    visitor.jar.receive(["a=1; Path=/", "b=2; Path=/"])
    answer = visitor.send(visitor.page("/probe"))
    report = answer.json
    assert (report["cookie_bytes"], report["cookies"], report["scheme"]) == (8, 2, "https")
    for size in (600, 4096, 40_000):
        answer = visitor.send(visitor.page(f"/probe?response={size}"))
        total = sum(len(name) + len(value) + 4 for name, value in answer.headers)
        assert size - 12 <= total <= size
        assert answer.json["padding"] == sum(map(len, answer.all("X-Trial")))
        assert answer.all("Content-Length") == [str(len(answer.body))]
        (line,) = visitor.send(visitor.page(f"/probe?set_cookie={size}")).set_cookies
        assert len(f"Set-Cookie: {line}\r\n") == size


def test_report_opens_for_a_week_at_most_and_not_as_a_link(
    visitor: Visitor, clock: FakeClock
) -> None:
    answer = visitor.open(visitor.page("/trial/step?step=0"))
    (text,) = re.findall(r"<textarea readonly>(.*?)</textarea>", answer.body.decode())
    with pytest.raises(ProtectedTextRefused):
        visitor.pages.read_report(parse_qs(urlsplit(visitor.link).query)["link"][0])
    assert visitor.send(f"https://app.example{MOUNT}/?link={text}").status == 404
    clock.advance(12 * 3600_000)
    with pytest.raises(ProtectedTextRefused):
        visitor.pages.read_report(text)


def test_servers_are_named_by_what_they_call_themselves() -> None:
    names = ["gunicorn/27.0.1", "WSGIServer/0.2", "waitress", "Werkzeug/3.1.9", "Cheroot/9", ""]
    expected = ["gunicorn", "wsgiref", "waitress", "Werkzeug", "CherryPy", ""]
    assert [server_name(name) for name in names] == expected


def test_pages_answer_under_asgi(clock: FakeClock) -> None:
    deployment = Deployment.open(Settings(keys=[KEY.export()], clock=clock))
    keeper = Keeper(deployment)
    application = PathApplicationASGI(keeper)
    query = urlsplit(PathPages(keeper).link("http://x")).query
    sent: list[dict[str, Any]] = []

    async def run(method: str, path: str, body: bytes = b"") -> None:
        scope = {
            "type": "http",
            "method": method,
            "scheme": "https",
            "root_path": "/diagnosis",
            "path": f"/diagnosis{path}",
            "query_string": query.encode(),
            "headers": [(b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"via", b"1.1 x")],
            "client": ("203.0.113.9", 1),
        }
        pieces: list[dict[str, Any]]
        pieces = [{"body": body[:3], "more_body": True}, {"body": body[3:]}]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", **pieces.pop(0)}

        async def send(message: Any) -> None:
            sent.append(message)

        await application(scope, receive, send)

    anyio.run(run, "GET", "/probe")
    report = json.loads(sent[1]["body"])
    assert (report["cookie_bytes"], report["cookies"], report["scheme"]) == (8, 2, "https")
    assert (report["address"], report["forwarded"]) == ("203.0.113.9", {"via": "1.1 x"})
    sent.clear()
    anyio.run(run, "POST", "/measured", urlencode({"measured": '{"kept": false}'}).encode())
    assert sent[0]["status"] == 200
    assert b"keeps no cookies" in sent[1]["body"]

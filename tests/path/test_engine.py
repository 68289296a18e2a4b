"""The probes find the limits of a modelled path, name who refused, and judge the profiles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from sealedstate.path import Diagnosis, Observation, Probe, diagnose
from sealedstate.path._engine import BROWSER_FIELDS, REPORT, cookie_of
from sealedstate.path._hops import HOPS, refused_by
from sealedstate.profiles import PROFILES

SIZES = {"cookie", "cookies", "set_cookie", "response"}
PAGE = b"<center><h1>400 Bad Request</h1></center>\r\n<hr><center>nginx/1.22.1</center>"
REFUSED = Observation(400, [("Server", "nginx/1.22.1")], PAGE)
BAD_GATEWAY = Observation(502, [("Server", "nginx/1.22.1")], PAGE.replace(b"400", b"502"))


@dataclass
class Path:
    """An application behind a proxy, as a function. `change`: what the proxy does to a response."""

    cookie: int = 8180
    cookies: int = 1000
    set_cookie: int = 4000
    response: int = 4096
    is_mounted: bool = True
    change: Callable[[Probe, Observation], Observation] = lambda probe, seen: seen
    probes: list[Probe] = field(default_factory=list)

    def answer(self, probe: Probe) -> Observation:
        self.probes.append(probe)
        if len(probe.cookie) > self.cookie or probe.cookie.count("=") > self.cookies:
            return REFUSED
        set_cookie = int(probe.query.get("set_cookie", 0))
        response = int(probe.query.get("response", 0))
        if set_cookie > self.set_cookie or response > self.response:
            return BAD_GATEWAY
        fields = [("Server", "nginx/1.22.1")]
        if not self.is_mounted:
            return Observation(302, fields)
        report = {
            "report": REPORT,
            "cookie_bytes": len(probe.cookie),
            "cookies": probe.cookie.count("="),
            "cookie_digest": hashlib.sha256(probe.cookie.encode()).hexdigest(),
            "scheme": "https",
            "address": "203.0.113.1",
            "server": "gunicorn",
            "now": 1000,
            "serial": len(self.probes),
            "site": dict(probe.headers)["Sec-Fetch-Site"],
            "origin": dict(probe.headers).get("Origin", ""),
        }
        if set_cookie:
            fields.append(("Set-Cookie", "trial=0; Path=/"))
        if response:
            report["padding"] = 1
            fields.append(("X-Trial", "0"))
        if "attributes" in probe.query:
            report["lines"] = lines = ["trial=kept; Path=/x; Secure; SameSite=None; Partitioned"]
            fields += [("Set-Cookie", line) for line in lines]
        seen = Observation(200, fields, json.dumps(report).encode(), received_at=1000)
        return self.change(probe, seen)

    def diagnosis(self, profile: str = "portable") -> Diagnosis:
        steps = diagnose(PROFILES[profile], "https", b"0123456789abcdef")
        probe = next(steps)
        while True:
            try:
                probe = steps.send(self.answer(probe))
            except StopIteration as end:
                diagnosis: Diagnosis = end.value
                return diagnosis


def edit(report: dict[str, object]) -> Callable[[Probe, Observation], Observation]:
    """A proxy or an application that reports otherwise."""

    def change(probe: Probe, seen: Observation) -> Observation:
        body = json.dumps({**json.loads(seen.body), **report}).encode()
        return Observation(seen.status, seen.headers, body, received_at=seen.received_at)

    return change


def codes(diagnosis: Diagnosis) -> list[str]:
    return [each.code for each in diagnosis.findings]


@pytest.mark.parametrize(
    "path",
    [
        Path(),
        Path(cookie=3079, set_cookie=8192, response=60_000),
        Path(cookie=16_109, response=65_536),
        Path(cookie=100_000, cookies=50, set_cookie=9000, response=32_800),
        Path(cookie=300, set_cookie=300, response=700),
    ],
    ids=lambda path: str(path.cookie),
)
def test_limits_are_found_within_a_twentieth_in_some_forty_requests(path: Path) -> None:
    diagnosis = path.diagnosis()
    assert len(path.probes) == diagnosis.requests <= (45 if path.cookie > 300 else 60)
    for limit in diagnosis.limits:
        # As many cookies take more bytes than the smallest path carries.
        true = 44 if limit.question == "cookies" and path.cookie == 300 else None
        true = true or getattr(path, limit.question)
        if limit.refused is None:
            assert limit.passed <= true
        else:
            assert 0.95 * true <= limit.passed <= true < limit.refused <= 1.05 * true
        assert limit.is_stable


def test_refusing_hop_and_its_setting_are_named() -> None:
    diagnosis = Path().diagnosis()
    assert diagnosis.hops == ["nginx", "gunicorn"]
    found = {each.question: (each.hop, each.answer, each.setting) for each in diagnosis.limits}
    assert found["cookie"] == ("nginx", "400", HOPS["nginx"].request)
    assert found["response"] == ("nginx", "502", HOPS["nginx"].response)
    assert found["cookies"] == ("", "", "")


@pytest.mark.parametrize(
    ("path", "fitting"),
    [
        (Path(), ["tight", "portable"]),
        (Path(cookie=3079), ["tight"]),
        (Path(cookie=2800), ["tight"]),
        (Path(cookie=2799), []),
        (Path(response=7100), ["tight", "portable", "standard"]),
        (Path(cookie=13_500, response=12_100), ["tight", "portable", "standard", "roomy"]),
        (Path(cookie=100_000, response=12_099, set_cookie=8000), ["tight", "portable", "standard"]),
    ],
    ids=lambda value: "",
)
def test_profiles_that_fit_are_named_to_the_byte(path: Path, fitting: list[str]) -> None:
    for profile in PROFILES:
        diagnosis = path.diagnosis(profile)
        assert (list(diagnosis.fitting), diagnosis.fits) == (fitting, profile in fitting)


def test_one_failed_connection_does_not_end_a_search_in_the_wrong_place() -> None:
    class Flaky(Path):
        def answer(self, probe: Probe) -> Observation:
            seen = super().answer(probe)
            is_struck = len(self.probes) == 4 and seen.status == 200
            return Observation(None, failure="reset") if is_struck else seen

    diagnosis = Flaky(cookie=50_000).diagnosis()
    assert 0.95 * 50_000 <= diagnosis.limits[0].passed <= 50_000
    assert codes(diagnosis) == ["unstable"]


def test_node_that_fails_now_and_then_is_no_firewall() -> None:
    class Failing(Path):
        def answer(self, probe: Probe) -> Observation:
            seen = super().answer(probe)
            asked = [each for each in self.probes if each.question == "firewall"]
            return Observation(503) if len(asked) % 2 and probe.question == "firewall" else seen

    assert codes(Failing().diagnosis()) == []


@pytest.mark.parametrize("every", [3, 4, 5, 7, 11])
def test_connections_that_often_fail_move_no_limit(every: int) -> None:
    class Failing(Path):
        def answer(self, probe: Probe) -> Observation:
            seen = super().answer(probe)
            is_struck = len(self.probes) % every == 0 and probe.question in SIZES
            return Observation(503) if is_struck else seen

    limit = Failing(cookie=50_000).diagnosis().limits[0]
    assert 0.95 * 50_000 <= limit.passed <= 50_000 < (limit.refused or 0) < 53_000


def test_application_without_the_pages_is_measured_by_its_status() -> None:
    diagnosis = Path(is_mounted=False).diagnosis()
    assert [each.question for each in diagnosis.limits] == ["cookie", "cookies"]
    assert 0.95 * 8180 <= diagnosis.limits[0].passed <= 8180
    assert codes(diagnosis) == ["not-mounted"]


class Constant(Path):
    """Something before the application that answers each request alike."""

    def __init__(self, status: int, location: str = "") -> None:
        super().__init__(is_mounted=False)
        self.seen = Observation(status, [("Location", location)] if location else [])

    def answer(self, probe: Probe) -> Observation:
        self.probes.append(probe)
        return self.seen


@pytest.mark.parametrize(
    ("path", "code", "is_clean"),
    [
        (Constant(301, "https://app.example/"), "redirect", True),
        (Constant(308, "//app.example/"), "redirect", False),
        (Constant(301, "http://app.example/\x1b[31m"), "redirect", False),
        (Constant(302, "/sign-in"), "", True),
        (Constant(404), "", True),
        (Constant(401), "status", True),
        (Constant(429), "status", False),
        (Constant(500), "status", False),
    ],
    ids=lambda value: "",
)
def test_answer_that_is_hardly_the_applications_is_a_finding(
    path: Path, code: str, is_clean: bool
) -> None:
    diagnosis = path.diagnosis()
    assert codes(diagnosis) == ["not-mounted", *[code][: len(code)]]
    assert diagnosis.is_clean == is_clean
    assert all(each.text.isprintable() for each in diagnosis.findings)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("most", [5, 12, 38])
def test_path_that_allows_so_many_requests_is_not_said_to_refuse_cookies(
    status: int, most: int
) -> None:
    class Limited(Path):
        def answer(self, probe: Probe) -> Observation:
            seen = super().answer(probe)
            return Observation(status) if len(self.probes) > most else seen

    diagnosis = Limited().diagnosis()
    assert codes(diagnosis).count("rate") == 1
    assert "firewall" not in codes(diagnosis)
    assert not diagnosis.is_clean


def test_address_that_does_not_answer_is_a_problem() -> None:
    steps = diagnose(PROFILES["tight"], "http", bytes(16))
    next(steps)
    steps.send(Observation(None, failure="reset"))
    steps.send(Observation(503))
    with pytest.raises(StopIteration) as end:
        steps.send(Observation(None, failure="timeout"))
    assert codes(end.value.value) == ["unreachable"]
    assert not end.value.value.is_clean


def drop_attributes(probe: Probe, seen: Observation) -> Observation:
    fields = [
        (name, value.replace("; Secure", "").replace("None", "Lax").replace("; Partitioned", ""))
        for name, value in seen.headers
    ]
    return Observation(seen.status, fields, seen.body, received_at=seen.received_at)


def drop_cookies(probe: Probe, seen: Observation) -> Observation:
    fields = [field for field in seen.headers if field[0] != "Set-Cookie"]
    return Observation(seen.status, fields, seen.body, received_at=seen.received_at)


def refuse_tokens(probe: Probe, seen: Observation) -> Observation:
    return Observation(403) if probe.question == "firewall" else seen


def refuse_forms(probe: Probe, seen: Observation) -> Observation:
    return Observation(403) if probe.form else seen


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (drop_attributes, ["cookie-partitioned", "cookie-samesite", "cookie-secure"]),
        (drop_cookies, ["cookie-removed"]),
        (refuse_tokens, ["firewall"]),
        (refuse_forms, ["cross-site-post"]),
        (edit({"site": "", "origin": ""}), ["cross-site-unseen"]),
        (edit({"site": ""}), ["cross-site-unseen"]),
        (edit({"scheme": "http"}), ["scheme"]),
        (edit({"address": "192.0.2.77"}), ["forged-address"]),
        (edit({"serial": "same"}), ["cache-unsafe", "cache"]),
        (edit({"now": 1100}), ["clock"]),
        (edit({"cookie_digest": "0"}), ["cookie-changed"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_the_path_changes_is_found(
    change: Callable[[Probe, Observation], Observation], expected: list[str]
) -> None:
    assert codes(Path(change=change).diagnosis()) == expected
    assert codes(Path().diagnosis()) == []


def test_one_failed_form_is_no_refusal() -> None:
    class Failing(Path):
        def answer(self, probe: Probe) -> Observation:
            seen = super().answer(probe)
            is_first = sum(bool(each.form) for each in self.probes) == 1
            return Observation(502) if probe.form and is_first else seen

    assert codes(Failing().diagnosis()) == []


def test_nodes_with_other_clocks_are_found() -> None:
    class Nodes(Path):
        def answer(self, probe: Probe) -> Observation:
            self.change = edit({"now": 1000 + 300 * (len(self.probes) % 2)})
            return super().answer(probe)

    assert codes(Nodes().diagnosis()) == ["clocks-of-nodes"]


def test_probe_is_like_a_request_of_a_browser() -> None:
    path = Path()
    path.diagnosis()
    forms = [probe for probe in path.probes if probe.form]
    for probe in path.probes:
        if probe not in forms:
            assert probe.headers[: len(BROWSER_FIELDS)] == BROWSER_FIELDS
    assert len({probe.query["nonce"] for probe in path.probes}) == len(path.probes) - 2
    (form,) = forms
    assert {*BROWSER_FIELDS} - {*form.headers} == {("Sec-Fetch-Site", "none")}
    assert dict(form.headers)["Sec-Fetch-Site"] == "cross-site"
    assert form.form.startswith(b"SAMLResponse=")
    for size in (4, 100, 3800, 3801, 3815, 3816, 7600, 7602, 65_536):
        pairs = cookie_of(size).split("; ")
        assert len("; ".join(pairs)) == size
        assert all(4 <= len(pair) <= 3800 for pair in pairs)
        assert len({pair.partition("=")[0] for pair in pairs}) == len(pairs)


# What each of them answered when a request or a response was too long: status, fields, and what the
# body begins with or contains.
ANSWERS = {
    "nginx": (400, "Server: nginx/1.22.1", "<hr><center>nginx/1.22.1</center>"),
    "HAProxy": (
        400,
        "",
        "<html><body><h1>400 Bad request</h1>\nYour browser sent an invalid request.\n",
    ),
    "Varnish": (503, "Server: Varnish", "<h3>Guru Meditation:</h3>"),
    "squid": (431, "Server: squid/5.7\nX-Squid-Error: ERR_TOO_BIG 0\nVia: 1.1 vm (squid/5.7)", ""),
    "gunicorn": (431, "", "<h1><p>Request Header Fields Too Large</p></h1>"),
    "waitress": (
        431,
        "Server: waitress",
        "exceeds max_header of 262144\r\n\r\n(generated by waitress)",
    ),
    "uvicorn": (400, "content-type: text/plain", "Invalid HTTP request received."),
    "hypercorn": (431, "server: hypercorn-h11", ""),
    "Apache": (
        400,
        "Server: Apache/2.4.71 (Debian)",
        "<h1>Bad Request</h1>\nSize of a request header field exceeds server limit.",
    ),
    "Envoy": (431, "content-type: text/plain\nserver: envoy", "Request Header Fields Too Large"),
    "Werkzeug": (431, "Server: Werkzeug/3.1.9 Python/3.11.7", ""),
    "wsgiref": (431, "Server: WSGIServer/0.2 Python/3.11.7", "<p>Error code explanation: 431"),
}


def refusal(status: int, fields: str, body: str) -> Observation:
    headers = [tuple(line.split(": ", 1)) for line in fields.splitlines()]
    return Observation(status, headers, body.encode())  # type: ignore[arg-type]


@pytest.mark.parametrize("hop", ANSWERS)
def test_hop_is_known_by_its_refusal(hop: str) -> None:
    status, fields, body = ANSWERS[hop]
    direction = "response" if status >= 500 else "request"
    seen = refusal(status, fields, body)
    assert refused_by(seen, direction, [], "another") == hop  # type: ignore[arg-type]


@pytest.mark.parametrize("front", ["nginx", "HAProxy", "Varnish", "squid", "Envoy", "Apache"])
def test_proxy_that_reports_a_broken_connection_is_not_blamed_for_a_request(front: str) -> None:
    _, fields, body = ANSWERS[front]
    body = body.replace("400 Bad request", "502 Bad Gateway")
    body = body.replace("Your browser sent an invalid", "The server returned an invalid")
    seen = refusal(502, fields, body)
    assert refused_by(seen, "request", [front], "uWSGI") == "uWSGI"
    assert refused_by(seen, "response", [front], "uWSGI") == front


def test_refusal_that_a_proxy_passes_on_is_the_application_servers() -> None:
    passed_on = [
        refusal(431, "Server: nginx/1.22.1", ANSWERS["gunicorn"][2]),
        refusal(431, "server: envoy\nx-envoy-upstream-service-time: 2", ""),
        refusal(431, "Server: nginx/1.22.1", ""),
    ]
    for seen in passed_on:
        assert refused_by(seen, "request", ["nginx"], "gunicorn") == "gunicorn"


def test_refusal_without_an_answer_is_the_nearest_hops() -> None:
    reset = Observation(None, failure="reset")
    assert refused_by(reset, "request", [], "uWSGI") == "uWSGI"
    assert refused_by(reset, "request", ["Varnish"], "uWSGI") == "Varnish"
    assert refused_by(Observation(400), "request", [], "uWSGI") == "Varnish"

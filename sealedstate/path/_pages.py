"""What the application answers to probes and to visitors, without a framework.

All pages need a link that `PathPages.link` seals, and that opens for an hour. Trial cookies have
the Path of ``trial`` below the pages and end after a minute, so no other page ever gets them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from ..deployment import Deployment
from ..errors import ProtectedTextRefused, ProtectedTextWithheld, escape_text
from ..keeper import find_keeper
from ..profiles import PROFILES
from ._engine import (
    CLOCK_SECONDS,
    MOST_BYTES,
    REPORT,
    PathLimit,
    judge,
    judge_cross_site,
    needs_of,
)
from ._html import (
    ERRORS,
    SCRIPT,
    message_page,
    policy,
    posting_page,
    posting_policy,
    result_page,
    start_page,
)

Headers: TypeAlias = list[tuple[str, str]]

_log = logging.getLogger("sealedstate.path")

# How long a link opens the pages, and how long a report can be read, in seconds.
LINK_SECONDS, REPORT_SECONDS = 3600, 7 * 86400
TRIAL_SECONDS, PROGRESS_SECONDS = 60, 300
# Of the forms and of the measurements of a script.
MOST_BODY_BYTES = 1 << 14
# Fields of responses that browsers need for nothing, in lines that all servers take.
PADDING_LINE = 2000
# How long the Cookie field is in each step of a browser without scripts. The differences are what
# one response sets; one of them is a cookie of the profile portable.
STEPS = (1400, 2800, 5800, 7600, 9600, 11_600, 13_500)
PROGRESS = "sealedstate-path"
# What may reveal a proxy on the path. No other field of a request is reported.
FORWARDED = (
    *("forwarded", "via", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"),
    *("x-forwarded-port", "x-forwarded-prefix", "x-real-ip", "x-scheme"),
)
# The SameSite of the trial cookies that are sent before a form of another site.
SAME_SITES = {"none": "None", "unset": "", "lax": "Lax", "strict": "Strict"}
# What each request around that form shows.
_CROSSING = {"/trial/cross": "kept", "/trial/crossed": "post", "/trial/landed": "redirect"}
_TRIAL = re.compile(r"t[0-9]{1,3}|trial(?:-[a-z]+)?|__Secure-trial")
# Letters that are not taken for others when they are read out.
_CODE_LETTERS = "23456789ABCDEFGHJKMNPQRSTVWXYZ"
_NO_STORE = ("Cache-Control", "no-store, private")
_LIMITS = ("cookie", "set_cookie", "response")


@dataclass(frozen=True, slots=True)
class PathRequest:
    """What an adapter hands over: `path` is below the mount point, and `mount` is that.

    `mount`: as the application sees it, until the link says how browsers do.
    """

    method: str
    mount: str
    path: str
    query: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    scheme: str
    address: str = field(repr=False)
    server: str
    body: bytes = field(default=b"", repr=False)

    @property
    def cookie(self) -> str:
        return self.headers.get("cookie", "")

    @property
    def trial_path(self) -> str:
        """The Path of trial cookies."""
        return f"{quote(self.mount.rstrip('/'))}/trial"

    def attributes(self, path: str, seconds: int, same_site: str = "Lax") -> str:
        """What follows the pair in a Set-Cookie field."""
        # Browsers keep no cookie with SameSite=None that is not Secure.
        secure = "; Secure" if self.scheme == "https" or same_site == "None" else ""
        rest = f"; SameSite={same_site}" if same_site else ""
        return f"; Path={path}; Max-Age={seconds}; HttpOnly{secure}{rest}"

    def cross_lines(self, seconds: int) -> list[str]:
        """Set-Cookie fields with a trial cookie for each SameSite; 0 seconds delete them."""
        return [
            f"trial-{name}=1{self.attributes(self.trial_path, seconds, same_site)}"
            for name, same_site in SAME_SITES.items()
        ]


@dataclass(frozen=True, slots=True)
class PathLink:
    """An opened link. `mount`, `other`: where the pages are, also on another site; or empty."""

    text: str = field(repr=False)
    label: str = field(repr=False)
    mount: str = field(default="", repr=False)
    other: str = field(default="", repr=False)

    def query(self, **parameters: object) -> str:
        return urlencode({"link": self.text, **parameters})


@dataclass(frozen=True, slots=True)
class PathResponse:
    status: str
    headers: Sequence[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False)


class PathPages:
    """The pages of one deployment. `source`: a Keeper, a Deployment, or what has a `keeper`."""

    def __init__(self, source: Any) -> None:
        is_deployment = isinstance(source, Deployment)
        deployment = source if is_deployment else find_keeper(source).deployment
        longest = deployment.lifetimes.longest
        self._deployment = deployment
        self._profile = deployment.settings.budget_profile()
        self._cookie_name = deployment.settings.cookie_family().name
        self._links = deployment.protector("path-link", max_age=min(LINK_SECONDS, longest))
        self._reports = deployment.protector("path-report", max_age=min(REPORT_SECONDS, longest))
        self._found = deployment.protector("path-found", max_age=min(PROGRESS_SECONDS, longest))

    def link(self, mount: str, label: str = "", other: str = "") -> str:
        """The address for one visitor, which opens the pages for an hour.

        `mount`: where they are, such as ``https://app.example/sealedstate/path``; empty for the
        part of an address that comes after that, if no visitor opens it. `label`: comes back with
        the report. `other`: where they are on another site, from which the form of
        another site is then posted; without it, a page of `mount` in a sandbox posts it.
        """
        given = [label, mount.rstrip("/"), other.rstrip("/")]
        return f"{mount.rstrip('/')}/?{urlencode({'link': self._links.seal(given)})}"

    def read_report(self, text: str) -> dict[str, Any]:
        """The facts of a report that a visitor sent. Raises ProtectedTextRefused or -Withheld."""
        facts = self._reports.open(text)
        if not isinstance(facts, dict):
            raise ProtectedTextRefused("malformed")
        return facts

    def answer(self, request: PathRequest) -> PathResponse:
        """The response to any request below the mount point."""
        query = dict(parse_qsl(request.query[:4096], keep_blank_values=True))
        form = dict(parse_qsl(request.body.decode("utf-8", "replace")))
        text = query.get("link", "")
        try:
            opened: Any = self._links.open(text)
        except (ProtectedTextRefused, ProtectedTextWithheld):
            return _page(
                "404 Not Found",
                message_page("No such page", ["This link is not valid, or not valid any more."]),
            )
        link = PathLink(text, *(opened if isinstance(opened, list) else [opened]))
        if link.mount:
            # A proxy may have another name for this place, and browsers go by that.
            request = replace(request, mount=unquote(urlsplit(link.mount).path))
        match request.method, request.path:
            case (("GET" | "HEAD" | "POST"), "/probe") | (("GET" | "HEAD"), "/trial/probe"):
                return self._answer_probe(request, query)
            case (("GET" | "HEAD"), ""):
                # Relative, because the scheme and the host may have other names, too.
                last = quote(request.mount.rstrip("/").rpartition("/")[2])
                return _redirect(f"{last}/?{link.query()}")
            case (("GET" | "HEAD"), "/"):
                # Visitors come back to it from an error page.
                _, lines = self._progress_of(request, link)
                return _page("200 OK", start_page(text, link.query()), lines)
            case (("GET" | "HEAD"), "/script.js"):
                return _response("200 OK", "text/javascript; charset=utf-8", SCRIPT, [_NO_STORE])
            case "GET", "/trial/step":
                return self._step(request, query, link)
            case "POST", "/failed":
                found, lines = self._progress_of(request, link, form.get("seen", ""))
                return self._result(request, link, found, lines)
            case "POST", "/measured":
                found = _clean(form.get("measured", ""))
                return self._begin_crossing(request, link, found, "trial/")
            case ("GET", ("/trial/cross" | "/trial/landed")) | ("POST", "/trial/crossed"):
                return self._cross(request, link, {**query, **form}.get("found", ""))
            case "GET", "/post" if link.other:
                place = f"{link.mount}/trial/crossed?{link.query()}"
                origin = "{0.scheme}://{0.netloc}".format(urlsplit(link.mount))
                page = posting_page(place, query.get("found", ""))
                # Its form names its origin, as those of sign-in pages do, and nothing else.
                return _page("200 OK", page, (), posting_policy(origin), "strict-origin")
        return _page("404 Not Found", message_page("No such page", ["There is no such page."]))

    # --- for the prober and the script ----------------------------------------------------------

    def _answer_probe(self, request: PathRequest, query: Mapping[str, str]) -> PathResponse:
        """A report of what came, in a response of the size that was asked for."""
        cookie = request.cookie
        report: dict[str, Any] = {
            "report": REPORT,
            "cookie_bytes": len(cookie),
            "cookies": len(_pairs(cookie)),
            "cookie_digest": hashlib.sha256(cookie.encode("latin-1", "replace")).hexdigest(),
            "scheme": request.scheme,
            "address": request.address,
            "forwarded": _forwarded(request),
            **_source_of(request),
            "server": request.server,
            "now": int(self._deployment.now()),
            "serial": self._deployment.random(8).hex(),
        }
        headers: Headers = [("Content-Type", "application/json"), _NO_STORE]
        if query.get("cache") == "public":
            headers[1] = ("Cache-Control", "public, max-age=60")
        path, kept = request.trial_path, request.attributes(request.trial_path, TRIAL_SECONDS)
        size = _size(query, "set_cookie")
        if size:
            room = max(0, size - len(f"Set-Cookie: trial={kept}\r\n"))
            headers.append(("Set-Cookie", f"trial={'0' * room}{kept}"))
        if "attributes" in query:
            kept = f"=kept; Path={path}; Max-Age={TRIAL_SECONDS}; HttpOnly; Secure"
            report["lines"] = [
                f"__Secure-trial{kept}; SameSite=None; Partitioned",
                f"trial-lax{kept}; SameSite=Lax",
                f"trial-gone=; Path={path}; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
            ]
            headers += [("Set-Cookie", line) for line in report["lines"]]
        if "clear" in query:
            headers.append(("Set-Cookie", f"trial={request.attributes(path, 0)}"))
        size = _size(query, "response")
        report["padding"] = 0
        # Blanks change no JSON, and the length is among the fields whose sum is asked for.
        length = len(json.dumps(report)) + len(str(size)) + 1
        headers.append(("Content-Length", str(length)))
        left = size - sum(len(name) + len(value) + 4 for name, value in headers)
        while left > len("X-Trial: \r\n"):
            value = "0" * (min(left, PADDING_LINE) - len("X-Trial: \r\n"))
            headers.append(("X-Trial", value))
            report["padding"] += len(value)
            left -= len(value) + len("X-Trial: \r\n")
        return PathResponse(
            "200 OK", headers, json.dumps(report).encode().ljust(length - 1) + b"\n"
        )

    # --- for a browser without scripts ----------------------------------------------------------

    def _step(self, request: PathRequest, query: Mapping[str, str], link: PathLink) -> PathResponse:
        """One redirect of a chain; each adds a cookie, until all steps have passed."""
        text = query.get("step", "")
        names = [name for name, _ in _pairs(request.cookie)]
        trials = [name for name in names if _TRIAL.fullmatch(name)]
        path = request.trial_path
        if text == "gone":
            passed = _size(query, "passed")
            limit = {"passed": passed, "refused": None, "answer": ""}
            found = {"cookie": limit, "kept": passed > 0, "deleted": not trials}
            return self._begin_crossing(request, link, found)
        step = int(text) if re.fullmatch("[0-9]", text) else 0
        if step >= len(STEPS) or (step > 0 and not trials):
            # All steps passed, or the browser keeps no cookies.
            passed = len(request.cookie) if trials else 0
            # Also those that did not come: a path may drop some of many cookies.
            written = [f"t{number}" for number in range(len(STEPS) if trials else 0)]
            lines = [
                f"{name}={request.attributes(path, 0)}"
                for name in dict.fromkeys([*written, *trials])
            ]
            return _redirect(f"step?{link.query(step='gone', passed=passed)}", lines)
        room = min(STEPS[step] - len(request.cookie) - len(f"; t{step}="), 3800)
        lines = [
            f"t{step}={'0' * max(1, room)}{request.attributes(path, TRIAL_SECONDS)}",
            f"{PROGRESS}={step}{self._progress(request, PROGRESS_SECONDS)}",
        ]
        return _redirect(f"step?{link.query(step=step + 1)}", lines)

    def _progress_of(
        self, request: PathRequest, link: PathLink, seen: str = ""
    ) -> tuple[dict[str, Any], list[str]]:
        """What was found before an error page, and Set-Cookie fields that delete its cookies.

        `seen`: what the visitor says that it showed.
        """
        progress = dict(_pairs(request.cookie)).get(PROGRESS, "")
        answer = seen if seen in ERRORS else ERRORS[-1]
        if re.fullmatch("[0-9]", progress) and int(progress) < len(STEPS):
            step = int(progress)
            # The step whose response came is the last that wrote its number.
            passed = STEPS[step - 1] if step else 0
            limit = {"passed": passed, "refused": STEPS[step], "answer": answer}
            ends = request.attributes(request.trial_path, 0)
            lines = [f"t{number}={ends}" for number in range(step + 1)]
            return {"cookie": limit, "kept": True}, lines
        found = self._open_found(progress, link)
        if found is None:
            return {"kept": False}, []
        return {**found, "cross_site": {"answer": answer}}, request.cross_lines(0)

    def _progress(self, request: PathRequest, seconds: int) -> str:
        return request.attributes(f"{quote(request.mount.rstrip('/'))}/", seconds)

    # --- a form of another site -----------------------------------------------------------------

    def _begin_crossing(
        self, request: PathRequest, link: PathLink, found: dict[str, Any], folder: str = ""
    ) -> PathResponse:
        """Set the trial cookies, of which some do not come with a form of another site."""
        if not found.get("kept"):
            return self._result(request, link, found)
        text = self._found.seal(found, bound_to=link.text)
        line = f"{PROGRESS}={text}{self._progress(request, PROGRESS_SECONDS)}"
        lines = [*request.cross_lines(TRIAL_SECONDS), line]
        return _redirect(f"{folder}cross?{link.query(found=text)}", lines)

    def _cross(self, request: PathRequest, link: PathLink, text: str) -> PathResponse:
        """One of the requests before, with and after the form; each adds what it shows."""
        found = self._open_found(text, link)
        if found is None:
            return self._result(request, link, {}, request.cross_lines(0))
        stage, names = _CROSSING[request.path], {name for name, _ in _pairs(request.cookie)}
        came = " ".join(each for each in SAME_SITES if f"trial-{each}" in names)
        source = _source_of(request) if stage == "post" else {}
        found["cross_site"] = {**found.get("cross_site", {}), stage: came, **source}
        if stage == "redirect":
            return self._result(request, link, found, request.cross_lines(0))
        text = self._found.seal(found, bound_to=link.text)
        if stage == "post":
            return _redirect(f"landed?{link.query(found=text)}")
        if link.other:
            return _redirect(f"{link.other}/post?{link.query(found=text)}")
        page = posting_page(f"crossed?{link.query()}", text)
        return _page("200 OK", page, (), posting_policy())

    def _open_found(self, text: str, link: PathLink) -> dict[str, Any] | None:
        try:
            found = self._found.open(text, bound_to=link.text)
        except (ProtectedTextRefused, ProtectedTextWithheld):
            return None
        return found if isinstance(found, dict) else None

    # --- the result -----------------------------------------------------------------------------

    def _result(
        self,
        request: PathRequest,
        link: PathLink,
        found: dict[str, Any],
        deletions: Sequence[str] = (),
    ) -> PathResponse:
        """The page with one sentence, a code, and the report that it is about."""
        others = [pair for pair in _pairs(request.cookie) if not _TRIAL.fullmatch(pair[0])]
        others = [pair for pair in others if pair[0] != PROGRESS]
        counts = Counter(name for name, _ in others)
        largest = sorted(others, key=lambda pair: -len(pair[1]))[:12]
        limits = [PathLimit(name, **found[name]) for name in _LIMITS if name in found]
        facts = {
            "at": int(self._deployment.now()),
            "label": link.label,
            "profile": self._profile.name,
            "fits": bool(limits) and _fits(limits, self._profile),
            "fitting": [each.name for each in PROFILES.values() if limits and _fits(limits, each)],
            "browser": escape_text(request.headers.get("user-agent", ""), 200),
            "scheme": request.scheme,
            "address": request.address,
            "server": request.server,
            "forwarded": _forwarded(request),
            # Names and sizes of the other cookies, and no values.
            "cookies": {escape_text(name, 40): len(value) for name, value in reversed(largest)},
            "repeated": [escape_text(name, 40) for name, count in counts.items() if count > 1][:12],
            **found,
        }
        if "cross_site" in found:
            facts["problems"] = judge_cross_site(found["cross_site"])
        text = self._reports.seal(facts)
        code = code_of(text)
        is_clean = facts["fits"] and not facts.get("problems")
        level = logging.INFO if is_clean else logging.WARNING
        _log.log(level, "path report %s %s", code, text)
        sentence = _sentence(facts, counts[self._cookie_name] > 1)
        line = f"{PROGRESS}={self._progress(request, 0)}"
        return _page("200 OK", result_page(sentence, code, text), [*deletions, line])


def code_of(text: str) -> str:
    """The short code of a sealed report, such as ``7KQ4-X2MA``."""
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    letters = ""
    for _ in range(8):
        number, place = divmod(number, len(_CODE_LETTERS))
        letters += _CODE_LETTERS[place]
    return f"{letters[:4]}-{letters[4:]}"


def server_name(software: str) -> str:
    """The name of a server by what it calls itself, such as ``gunicorn/27.0.1``."""
    known = {"wsgiserver": "wsgiref", "cheroot": "CherryPy", "granian": "Granian"}
    known["daphne"] = "Daphne"
    name = re.split(r"[/ ]", software, maxsplit=1)[0]
    return known.get(name.lower(), name)


def _sentence(facts: Mapping[str, Any], is_repeated: bool) -> str:
    """What the visitor should know, in one sentence."""
    if facts.get("kept") is False:
        return (
            "Your browser keeps no cookies of this site; allow them for this site, then try again."
        )
    if is_repeated:
        return (
            "Your browser has two sign-in cookies of one name, one of them from another place;"
            " delete the cookies of this site and of its domain, then sign in again."
        )
    if "cookie" not in facts:
        return "The test did not get to its end; give the code below to the help desk."
    if not facts["fits"]:
        return (
            "Something between your browser and this site refuses cookies that this site needs;"
            " give the code below to the help desk."
        )
    if {"cross-site-post", "lax-after-post"}.intersection(facts.get("problems", ())):
        return (
            "Your browser or the network changes what comes back from sign-in pages of other sites;"
            " give the code below to the help desk."
        )
    if abs(facts.get("clock", 0)) > CLOCK_SECONDS:
        return "The clock of your computer is wrong; set it, then try again."
    return "Your browser and the network carry what this site needs."


def _fits(limits: Sequence[PathLimit], profile: Any) -> bool:
    """Whether the limits carry a profile; what nothing refused is as large as it was asked for."""
    needs = needs_of(profile)
    return judge(
        profile, [each for each in limits if each.refused or each.passed < needs[each.question]]
    )


def _clean(text: str) -> dict[str, Any]:
    """The measurements of a script, as far as they have the expected form."""
    try:
        given = json.loads(text[:4096])
    except (ValueError, RecursionError):
        return {}
    found: dict[str, Any] = {}
    if not isinstance(given, dict):
        return found
    for name in _LIMITS:
        limit = given.get(name)
        if isinstance(limit, dict) and _is_size(limit.get("passed")):
            refused = limit.get("refused")
            found[name] = {
                "passed": limit["passed"],
                "refused": refused if _is_size(refused) else None,
                "answer": escape_text(limit.get("answer", ""), 40),
            }
    for name in ("kept", "deleted", "storage"):
        if isinstance(given.get(name), bool):
            found[name] = given[name]
    for name in ("clock", "left"):
        value = given.get(name)
        if type(value) is int and abs(value) < 1 << 40:
            found[name] = value
    if isinstance(given.get("failed"), str):
        found["failed"] = escape_text(given["failed"], 200)
    return found


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= MOST_BYTES


def _pairs(cookie: str) -> list[tuple[str, str]]:
    """Names and values of a Cookie field, for counting only."""
    pairs = (pair.strip().partition("=") for pair in cookie.split(";"))
    return [(name, value) for name, equals, value in pairs if name or equals]


def _forwarded(request: PathRequest) -> dict[str, str]:
    return {
        name: escape_text(request.headers[name], 200)
        for name in FORWARDED
        if name in request.headers
    }


def _source_of(request: PathRequest) -> dict[str, str]:
    """From which site the request says that it is."""
    return {
        "site": escape_text(request.headers.get("sec-fetch-site", ""), 20),
        "origin": escape_text(request.headers.get("origin", ""), 100),
    }


def _size(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    return min(int(text), MOST_BYTES) if re.fullmatch(r"[0-9]{1,6}", text) else 0


def _redirect(place: str, lines: Sequence[str] = ()) -> PathResponse:
    headers = [("Location", place), *(("Set-Cookie", line) for line in lines)]
    return _response("303 See Other", "text/plain; charset=utf-8", "", [*headers, _NO_STORE])


def _page(
    status: str,
    text: str,
    lines: Sequence[str] = (),
    content_policy: str = policy(),
    referrer: str = "no-referrer",
) -> PathResponse:
    headers = [
        ("Content-Security-Policy", content_policy),
        ("Referrer-Policy", referrer),
        *(("Set-Cookie", line) for line in lines),
        _NO_STORE,
    ]
    return _response(status, "text/html; charset=utf-8", text, headers)


def _response(status: str, kind: str, text: str, headers: Headers) -> PathResponse:
    body = text.encode()
    sizes = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    return PathResponse(status, [*sizes, ("X-Content-Type-Options", "nosniff"), *headers], body)

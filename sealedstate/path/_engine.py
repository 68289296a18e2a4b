"""The plan of the probes, and what follows from their answers: no I/O and no clock.

`diagnose` is a generator: it yields a Probe, is sent the Observation, and returns a Diagnosis.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from .._wire.encoding import has_refused_word, to_text
from ..errors import escape_text
from ..profiles import PROFILES, Profile
from ._hops import HOPS, Direction, Observation, fronts_of, refused_by

# What a report of `PathPages` calls itself.
REPORT = "sealedstate-path-1"
# What the application may set in its responses beside our cookies, in bytes of header fields.
OTHER_FIELDS_BYTES = 600
# What a Set-Cookie field takes beside the name and the value of the cookie, at most.
ATTRIBUTES_BYTES = 110
# Browsers keep no longer cookie, and the values of a trial have only harmless letters.
PAIR_BYTES = 3800
_LETTERS = "0123456789abcdef"
# Larger sizes are not asked for: browsers keep 180 cookies and 4,096 bytes of each, and responses
# need no more.
MOST_BYTES, MOST_COOKIES, MOST_SET_COOKIE_BYTES, MOST_RESPONSE_BYTES = 65_536, 180, 8192, 40_000
LEAST_BYTES = 256
# A search ends when the interval is this part of what passed, or a few bytes.
PRECISION = 32
# Clocks of browser, prober and nodes may differ by as many seconds before a finding says so.
CLOCK_SECONDS = 60
# The fields that a probe has beside Cookie, as a browser sends them.
BROWSER_FIELDS = (
    (
        "User-Agent",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
        " Chrome/156.0.0.0 Safari/537.36",
    ),
    (
        "Accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,"
        "*/*;q=0.8",
    ),
    ("Accept-Language", "en-GB,en;q=0.9,de;q=0.8"),
    ("Accept-Encoding", "identity"),
    ("Upgrade-Insecure-Requests", "1"),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Site", "none"),
    ("Sec-Fetch-User", "?1"),
    ("Sec-CH-UA", '"Chromium";v="156", "Not A Brand";v="24", "Google Chrome";v="156"'),
    ("Sec-CH-UA-Mobile", "?0"),
    ("Sec-CH-UA-Platform", '"Windows"'),
)
# Of another site; its name is for documentation (RFC 2606).
OTHER_ORIGIN = "https://idp.example"
# As much of a form as a small SAML response takes.
FORM_BYTES = 3000
# An address for documentation (RFC 5737); it must not reach the application as the visitor's.
FORGED_ADDRESS = "192.0.2.77"

Severity: TypeAlias = Literal["problem", "warning", "note"]
Report: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Probe:
    """One request to send: the question it asks, and what makes it differ from others.

    `query`: parameters for `PathPages`; an application that does not have it gets none. `cookie`:
    the value of the Cookie field; without it, there is no such field. `headers`: all other fields
    but Host, Connection and Content-Length. `form`: the body of a POST; without it, it is a GET.
    """

    question: str
    query: Mapping[str, str] = field(default_factory=dict)
    cookie: str = field(default="", repr=False)
    headers: Sequence[tuple[str, str]] = field(default=BROWSER_FIELDS, repr=False)
    form: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class PathLimit:
    """The largest size that passed, and the smallest that was refused.

    `question`: ``cookie`` (bytes of the Cookie field), ``cookies`` (their number), ``set_cookie``
    (bytes of one Set-Cookie field) or ``response`` (bytes of all fields that the application sets).
    `refused`: None if no size was refused that browsers send or keep. `hop`, `answer`: which server
    or proxy refused it and how; `setting`: what raises it. `is_stable`: False if a size was refused
    once and then accepted.
    """

    question: str
    passed: int
    refused: int | None = None
    hop: str = ""
    answer: str = ""
    setting: str = ""
    is_stable: bool = True


@dataclass(frozen=True, slots=True)
class PathFinding:
    """Something to know about the path. `remedy`: what to do about it, or empty."""

    code: str
    severity: Severity
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a path carries.

    `hops`: proxies and the server of the application, as far as they show. `fitting`: the profiles
    that fit, smallest first; `profile`: the configured one, which `fits` or does not. `requests`:
    how many it took.
    """

    profile: str
    fits: bool
    fitting: Sequence[str]
    hops: Sequence[str]
    limits: Sequence[PathLimit]
    findings: Sequence[PathFinding]
    requests: int

    @property
    def is_clean(self) -> bool:
        """Whether the profile fits and nothing is a problem."""
        return self.fits and not any(each.severity == "problem" for each in self.findings)


Steps: TypeAlias = Generator[Probe, Observation, Any]


def diagnose(profile: Profile, scheme: str, entropy: bytes) -> Steps:
    """Ask what the path carries, and return a Diagnosis.

    `profile`: the configured one. `scheme`: of the address, ``http`` or ``https``. `entropy`: 16
    random bytes or more, so that no cache and no node takes two diagnoses for one.
    """
    return _Diagnosing(profile, scheme, entropy).run()


def cookie_of(size: int, value: Callable[[int], str] | None = None) -> str:
    """A Cookie field value of exactly `size` bytes, at least 4, in pairs that browsers can keep."""
    pairs: list[str] = []
    left = size
    while left > 0:
        name = f"t{len(pairs)}="
        # The last pair must have room for its separator and its name.
        room = left if left <= PAIR_BYTES else min(PAIR_BYTES, left - 16)
        count = room - len(name)
        pairs.append(name + (value(count) if value else (_LETTERS * (count // 16 + 1))[:count]))
        left -= room + 2
    return "; ".join(pairs)


def judge(profile: Profile, limits: Sequence[PathLimit]) -> bool:
    """Whether the path carries what sessions of this profile take."""
    needs = needs_of(profile)
    return all(each.passed >= needs[each.question] for each in limits)


def needs_of(profile: Profile) -> dict[str, int]:
    """What must pass for a profile, by question."""
    return {
        "cookie": profile.header_bytes,
        "cookies": profile.cookies,
        "set_cookie": profile.cookie_bytes + ATTRIBUTES_BYTES,
        "response": profile.response_bytes + OTHER_FIELDS_BYTES,
    }


class _Diagnosing:
    """One diagnosis while it is made."""

    def __init__(self, profile: Profile, scheme: str, entropy: bytes) -> None:
        self._profile = profile
        self._scheme = scheme
        self._entropy = entropy
        self._requests = 0
        self._fronts: list[str] = []
        self._application = ""
        self._is_mounted = False
        self._hello = Observation(None)
        # Of each report: the clock of its node less that of the prober.
        self._lags: list[float] = []
        self._findings: list[PathFinding] = []

    def run(self) -> Steps:
        # Everything depends on it, and a proxy may meet a connection that just closed.
        hello = yield from self._ask(Probe("hello"))
        for _ in range(2):
            if (hello.status or 500) >= 500 and hello.failure != "timeout":
                hello = yield from self._ask(Probe("hello"))
        self._hello, report = hello, report_of(hello)
        self._is_mounted = report is not None
        if report is not None:
            self._application = str(report.get("server", ""))
        self._fronts = fronts_of(hello)
        if hello.status is None:
            self._note("unreachable", "problem", f"The address does not answer: {hello.answer}.")
            return self._diagnosis(())
        limits = [
            (yield from self._search("cookie", "request", MOST_BYTES)),
            (yield from self._search("cookies", "request", MOST_COOKIES)),
        ]
        if self._is_mounted:
            limits.append(
                (yield from self._search("set_cookie", "response", MOST_SET_COOKIE_BYTES))
            )
            limits.append((yield from self._search("response", "response", MOST_RESPONSE_BYTES)))
            yield from self._check_attributes()
            yield from self._check_forwarding()
            yield from self._check_cross_site()
            yield from self._check_caches()
            self._check_clocks()
        else:
            self._note(
                "not-mounted",
                "warning",
                "No PathApplication answers there, so only requests were measured, no responses.",
                "mount PathApplication, and give a link that `sealedstate path link` printed in the"
                " last hour, with the keys of the application",
            )
            self._check_status()
        yield from self._check_firewall(limits[0])
        return self._diagnosis(limits)

    def _diagnosis(self, limits: Sequence[PathLimit]) -> Diagnosis:
        fitting = [each.name for each in PROFILES.values() if limits and judge(each, limits)]
        fits = bool(limits) and judge(self._profile, limits)
        for each in limits:
            if not each.is_stable:
                self._note(
                    "unstable",
                    "warning",
                    f"{each.question}: a size was refused once and then accepted; nodes with"
                    " different limits answer at this address, or a connection failed.",
                )
        hops = [*self._fronts]
        hops += [each.hop for each in limits if each.hop not in ("", *hops, self._application)]
        hops = list(dict.fromkeys(hops)) + [self._application] * bool(self._application)
        return Diagnosis(
            self._profile.name, fits, fitting, hops, limits, self._findings, self._requests
        )

    def _ask(self, probe: Probe) -> Generator[Probe, Observation, Observation]:
        self._requests += 1
        # A cache must not answer for the application.
        nonce = hashlib.blake2b(b"%d" % self._requests, key=self._entropy[:64], digest_size=8)
        if "nonce" not in probe.query:
            query = {**probe.query, "nonce": nonce.hexdigest()}
            probe = replace(probe, query=query)
        seen = yield probe
        report = report_of(seen)
        if report is not None and isinstance(report.get("now"), int | float):
            self._lags.append(report["now"] - seen.received_at)
        return seen

    # --- sizes ----------------------------------------------------------------------------------

    def _search(
        self, question: str, direction: Direction, most: int
    ) -> Generator[Probe, Observation, PathLimit]:
        """The largest size that passes, by bisection between the needs of the profiles."""
        marks = sorted(
            {needs_of(each)[question] for each in (*PROFILES.values(), self._profile)} - {most}
        )
        least, step = (1, 1) if question == "cookies" else (LEAST_BYTES, 8)
        passed, size, is_stable = 0, most, True
        # What was refused, by size; the smallest is last.
        refusals: list[tuple[int, Observation]] = []
        while True:
            seen = yield from self._ask(_sized(question, size))
            if self._passes(seen, question, size):
                passed = size
            else:
                refusals.append((size, seen))
            refused, refusal = refusals[-1] if refusals else (most + 1, seen)
            is_narrow = refused - passed <= max(step, passed // PRECISION)
            if passed < most and (is_narrow or refused <= least):
                # A connection that failed for another reason would end the search too early.
                for _ in range(1 if (refusal.status or 500) < 500 else 2):
                    again = yield from self._ask(_sized(question, refused))
                    if self._passes(again, question, refused):
                        passed, is_stable = refused, False
                        break
                else:
                    break
                refusals = [each for each in refusals if each[0] > passed]
                refused = refusals[-1][0] if refusals else most + 1
            if passed >= most:
                return PathLimit(question, passed, is_stable=is_stable)
            between = [mark for mark in marks if passed < mark < refused]
            if refused - passed <= step:
                size = min(refused, most)
            elif between:
                size = between[len(between) // 2]
            elif question == "cookies":
                size = (passed + refused) // 2
            else:
                size = int((max(passed, LEAST_BYTES // 2) * refused) ** 0.5)
        yield from self._is_rate_limited(refusal)
        hop = refused_by(refusal, direction, self._fronts, self._application)
        settings = HOPS.get(hop)
        setting = "" if settings is None else getattr(settings, direction)
        return PathLimit(question, passed, refused, hop, refusal.answer, setting, is_stable)

    def _passes(self, seen: Observation, question: str, size: int) -> bool:
        report = report_of(seen)
        if not self._is_mounted:
            # An application that knows no probes answers as it did without cookies.
            return seen.status is not None and seen.status == self._hello.status
        if report is None:
            return False
        if question == "cookie":
            return bool(report.get("cookie_bytes") == size)
        if question == "cookies":
            return bool(report.get("cookies") == size)
        if question == "set_cookie":
            return any(line.startswith("trial=") for line in seen.all("set-cookie"))
        # Some proxies drop a field that is too long, and pass on the rest.
        fields = sum(len(value) for value in seen.all("x-trial"))
        return bool(fields == report.get("padding"))

    def _is_rate_limited(self, refusal: Observation) -> Generator[Probe, Observation, bool]:
        """Whether what was refused is refused without cookies, too, by now."""
        if refusal.status not in (403, 429, 503):
            return False
        seen = yield from self._ask(Probe("hello"))
        is_limited = seen.status == refusal.status != self._hello.status
        if is_limited and all(each.code != "rate" for each in self._findings):
            self._note(
                "rate",
                "problem",
                f"After {self._requests} requests, the path answers {seen.status} also without"
                " cookies: it allows no more requests in this time, and sizes were not found.",
                "measure from an address that is not limited, or raise the limit",
            )
        return is_limited

    def _check_status(self) -> None:
        """Whether the address shows that it is not the application that answers."""
        status = self._hello.status or 0
        place = next(iter(self._hello.all("location")), "")
        if 300 <= status < 400 and re.match(r"(?i)https?://|//", place):
            self._note(
                "redirect",
                "warning" if place.lower().startswith(f"{self._scheme}:") else "problem",
                f"The address answers {status}, and leads to {escape_text(place)}; what is there"
                " was not measured.",
                "measure the address where the application is",
            )
        elif status >= 500 or status in (400, 407, 413, 421, 429, 431, 494):
            self._note(
                "status",
                "problem",
                f"The address answers {status} also without cookies, so perhaps the application"
                " was not reached.",
                "measure an address that the application answers",
            )
        elif status in (401, 403):
            self._note(
                "status",
                "warning",
                f"The address answers {status} also without cookies; a proxy that does so measures"
                " only itself.",
            )

    # --- beyond sizes ---------------------------------------------------------------------------

    def _check_attributes(self) -> Steps:
        """Whether Set-Cookie fields arrive as the application wrote them."""
        seen = yield from self._ask(Probe("attributes", {"attributes": "1"}))
        report = report_of(seen) or {}
        came = {line.partition("=")[0]: line for line in seen.all("set-cookie")}
        for line in report.get("lines", ()):
            name, wanted = line.partition("=")[0], attributes_of(line)
            if name not in came:
                self._note(
                    "cookie-removed",
                    "problem",
                    f"A Set-Cookie field is removed on the path ({name}).",
                    "find the proxy that hides Set-Cookie, such as proxy_hide_header",
                )
                continue
            found = attributes_of(came[name])
            for attribute in sorted({*wanted, *found}):
                before, after = wanted.get(attribute), found.get(attribute)
                if before == after:
                    continue
                change = "added" if before is None else "removed" if after is None else "rewritten"
                self._note(
                    f"cookie-{attribute}",
                    "problem" if attribute in ("secure", "httponly", "samesite") else "warning",
                    f"The path has {change} {attribute} of a cookie: it was"
                    f" {before or 'absent' if before is None else before or 'set'}, and came as"
                    f" {'absent' if after is None else after or 'set'}.",
                    "find proxy_cookie_flags, proxy_cookie_path, Header edit or a cookie"
                    " policy on the path",
                )

    def _check_forwarding(self) -> Steps:
        """Whether the application learns scheme and host, and whether a visitor can forge them."""
        forged = ("X-Forwarded-For", FORGED_ADDRESS)
        seen = yield from self._ask(Probe("forwarding", headers=(*BROWSER_FIELDS, forged)))
        report = report_of(seen) or {}
        if report.get("scheme") not in (self._scheme, None):
            self._note(
                "scheme",
                "warning",
                f"Browsers use {self._scheme}, and the application sees {report.get('scheme')}.",
                "have the proxy set X-Forwarded-Proto, and the application trust it",
            )
        address = str(report.get("address", ""))
        if address == FORGED_ADDRESS:
            self._note(
                "forged-address",
                "warning",
                "The application takes the address that a visitor writes into X-Forwarded-For for"
                " the visitor's.",
                "trust as many entries of X-Forwarded-For as there are proxies, from the end",
            )

    def _check_cross_site(self) -> Steps:
        """Whether a form of another site arrives, and shows the application where it is from."""
        fields = [each for each in BROWSER_FIELDS if each[0] != "Sec-Fetch-Site"]
        fields += [("Sec-Fetch-Site", "cross-site"), ("Origin", OTHER_ORIGIN)]
        fields.append(("Content-Type", "application/x-www-form-urlencoded"))
        form = f"SAMLResponse={_random_text(self._entropy)(FORM_BYTES)}&RelayState=trial".encode()
        probe = Probe("cross-site", cookie=cookie_of(64), headers=fields, form=form)
        seen = yield from self._ask(probe)
        if (report := report_of(seen)) is None:
            # A connection that failed for another reason would be taken for a refusal.
            seen = yield from self._ask(probe)
            report = report_of(seen)
        if report is None:
            self._note(
                "cross-site-post",
                "problem",
                f"A form that another site posts is refused ({seen.answer}): sign-ins whose answer"
                " is posted, as with SAML, fail.",
                "exclude the addresses of such sign-ins from the rule that refuses it",
            )
        elif report.get("site") not in ("cross-site", None):
            hidden = report.get("origin") != OTHER_ORIGIN
            self._note(
                "cross-site-unseen",
                "problem" if hidden else "warning",
                f"The path removes Sec-Fetch-Site{' and Origin' if hidden else ''} from a form that"
                " another site posts: the application takes its visitor for one without a session.",
                "have the proxies pass on Sec-Fetch-Site" + ("" if hidden else ", or set origins"),
            )

    def _check_caches(self) -> Steps:
        """Whether one answer comes twice: of those that forbid it, and of those that allow it."""
        for question in ("no-store", "public"):
            nonce = hashlib.blake2b(question.encode(), key=self._entropy[:64], digest_size=8)
            query = {"cache": question, "nonce": nonce.hexdigest()}
            serials = []
            for number in range(2):
                cookie = f"visitor={number}" if question == "no-store" else ""
                probe = Probe("cache", query, cookie)
                report = report_of((yield from self._ask(probe)))
                serials.append(None if report is None else report.get("serial"))
            if serials[0] is None or serials[0] != serials[1]:
                continue
            if question == "no-store":
                self._note(
                    "cache-unsafe",
                    "problem",
                    "A cache on the path gives the answer for one visitor to another, although it"
                    " says no-store.",
                    "have the cache obey Cache-Control and Vary",
                )
            else:
                self._note("cache", "note", "A cache on the path keeps answers that allow it.")

    def _check_clocks(self) -> None:
        if not self._lags:
            return
        least, most = min(self._lags), max(self._lags)
        if most - least > CLOCK_SECONDS:
            self._note(
                "clocks-of-nodes",
                "problem",
                f"The clocks of the nodes differ by {most - least:.0f} s.",
                "have each node synchronize its clock",
            )
        elif not -CLOCK_SECONDS <= most <= CLOCK_SECONDS:
            self._note(
                "clock",
                "warning",
                f"The application's clock is {abs(most):.0f} s"
                f" {'ahead of' if most > 0 else 'behind'} the clock here.",
            )

    def _check_firewall(self, limit: PathLimit) -> Steps:
        """Whether values that look like sessions pass where harmless ones of that size do."""
        size, refusals = min(limit.passed, self._profile.cookie_bytes), []
        for number in range(4 if size >= 64 else 0):
            random = _random_text(self._entropy + b"%d" % number)
            cookie = cookie_of(size, random)
            seen = yield from self._ask(Probe("firewall", cookie=cookie))
            if not self._passes(seen, "cookie", size):
                # A firewall refuses the same letters again; a failing node mostly does not.
                seen = yield from self._ask(Probe("firewall", cookie=cookie))
            if not self._passes(seen, "cookie", size):
                if (yield from self._is_rate_limited(seen)):
                    return
                refusals.append(seen.answer)
                continue
            report = report_of(seen)
            digest = hashlib.sha256(cookie.encode()).hexdigest()
            if report is not None and report.get("cookie_digest") not in (digest, None):
                self._note(
                    "cookie-changed",
                    "problem",
                    "The path changes the values of cookies.",
                    "find the proxy that rewrites the Cookie field",
                )
                return
        if refusals:
            self._note(
                "firewall",
                "problem",
                f"Of 4 cookies with random letters, {len(refusals)} were refused"
                f" ({', '.join(sorted(set(refusals)))}), where harmless letters of the same size"
                " pass: a firewall takes them for an attack.",
                "exclude the session's cookie from the rules for REQUEST_COOKIES",
            )

    def _note(self, code: str, severity: Severity, text: str, remedy: str = "") -> None:
        if all(each.text != text for each in self._findings):
            self._findings.append(PathFinding(code, severity, text, remedy))


def report_of(seen: Observation) -> Report | None:
    """What `PathPages` reports of a probe, if the response comes from it."""
    if seen.status != 200 or not seen.body.startswith(b"{"):
        return None
    try:
        report = json.loads(seen.body)
    except ValueError:
        return None
    return report if isinstance(report, dict) and report.get("report") == REPORT else None


def judge_cross_site(seen: Mapping[str, Any]) -> list[str]:
    """What is wrong with the cookies of a form that another site has posted, in codes.

    `seen`: which trial cookies were ``kept``, by their SameSite, which came with the ``post``, and
    which after its ``redirect``; ``site`` and ``origin`` as the request named them; or ``answer``,
    what the visitor saw in place of a result.
    """
    if "answer" in seen:
        return ["cross-site-post"]
    kept, post, landed = (str(seen.get(name, "")).split() for name in ("kept", "post", "redirect"))
    if seen.get("site") in ("same-origin", "same-site"):
        return ["not-cross-site"]
    found = {
        "cross-site-unseen": not seen.get("site") and not seen.get("origin"),
        "samesite-none": "none" not in kept or "none" not in post,
        "samesite-ignored": "lax" in post or "strict" in post or "strict" in landed,
        "lax-after-post": "lax" in kept and "lax" not in landed,
    }
    return [code for code, is_found in found.items() if is_found]


def attributes_of(line: str) -> dict[str, str]:
    """The attributes of a Set-Cookie field by their names in small letters, and its value."""
    pair, *attributes = line.split(";")
    found = {"value": pair.partition("=")[2].strip()}
    for attribute in attributes:
        name, _, value = attribute.strip().partition("=")
        found[name.lower()] = value.strip().lower()
    return found


def _sized(question: str, size: int) -> Probe:
    if question == "cookie":
        return Probe(question, cookie=cookie_of(size))
    if question == "cookies":
        return Probe(question, cookie="; ".join(f"t{number}=1" for number in range(size)))
    return Probe(question, {question: str(size)})


def _random_text(seed: bytes) -> Callable[[int], str]:
    """A function that makes a text like a sealed session's, of as many letters."""

    def text(count: int) -> str:
        number = 0
        while True:
            found = to_text(hashlib.shake_256(seed + b"/%d" % number).digest(count))[:count]
            if not has_refused_word(found):
                return found
            number += 1

    return text

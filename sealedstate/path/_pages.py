"""What the application answers to probes and to visitors, without a framework.

All pages need a link that `PathPages.link` seals, and that opens for an hour. Trial cookies have
the Path of ``trial`` below the pages and end after a minute, so no other page ever gets them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, quote, urlencode

from ..deployment import Deployment
from ..errors import ProtectedTextRefused, ProtectedTextWithheld
from ..keeper import Keeper
from ._engine import MOST_BYTES, REPORT

Headers: TypeAlias = list[tuple[str, str]]

# How long a link opens the pages, and how long a report can be read, in seconds.
LINK_SECONDS, REPORT_SECONDS = 3600, 7 * 86400
TRIAL_SECONDS = 60
# Of the forms and of the measurements of a script.
MOST_BODY_BYTES = 1 << 16
# Fields of responses that browsers need for nothing, in lines that all servers take.
PADDING_LINE = 2000
# What may reveal a proxy on the path. No other field of a request is reported.
FORWARDED = (
    *("forwarded", "via", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"),
    *("x-forwarded-port", "x-forwarded-prefix", "x-real-ip", "x-scheme"),
)
_NO_STORE = ("Cache-Control", "no-store, private")


@dataclass(frozen=True, slots=True)
class PathRequest:
    """What an adapter hands over: `path` is below the mount point, and `mount` is that."""

    method: str
    mount: str
    path: str
    query: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    scheme: str
    address: str = field(repr=False)
    server: str
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class PathResponse:
    status: str
    headers: Sequence[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False)


class PathPages:
    """The pages of one deployment. `source`: a Keeper, a Deployment, or what has a `keeper`."""

    def __init__(self, source: Any) -> None:
        keeper = source if isinstance(source, Keeper | Deployment) else source.keeper
        deployment = keeper if isinstance(keeper, Deployment) else keeper.deployment
        longest = deployment.lifetimes.longest
        self._deployment = deployment
        self._links = deployment.protector("path-link", max_age=min(LINK_SECONDS, longest))

    def link(self, mount: str, label: str = "") -> str:
        """The address for one visitor; `mount`: the address of the pages, such as
        ``https://app.example/sealedstate/path``. `label`: comes back with the report.
        """
        return f"{mount.rstrip('/')}/?{urlencode({'link': self._links.seal(label)})}"

    def answer(self, request: PathRequest) -> PathResponse:
        """The response to any request below the mount point."""
        query = dict(parse_qsl(request.query[:8192], keep_blank_values=True))
        link = query.get("link", "")
        try:
            self._links.open(link)
        except (ProtectedTextRefused, ProtectedTextWithheld):
            return _text("404 Not Found", "This link is not valid, or not valid any more.")
        if request.method == "GET" and request.path in ("/probe", "/trial/probe"):
            return self._answer_probe(request, query)
        return _text("404 Not Found", "There is no such page.")

    def _answer_probe(self, request: PathRequest, query: Mapping[str, str]) -> PathResponse:
        """A report of what came, in a response of the size that was asked for."""
        cookie = request.headers.get("cookie", "")
        now = self._deployment.now()
        report: dict[str, Any] = {
            "report": REPORT,
            "cookie_bytes": len(cookie),
            "cookies": cookie.count("=") and cookie.count(";") + 1,
            "cookie_digest": hashlib.sha256(cookie.encode("latin-1", "replace")).hexdigest(),
            "scheme": request.scheme,
            "address": request.address,
            "forwarded": {
                name: value for name, value in request.headers.items() if name in FORWARDED
            },
            "server": request.server,
            "now": int(now),
            "serial": self._deployment.random(8).hex(),
        }
        headers: Headers = [("Content-Type", "application/json"), _NO_STORE]
        if query.get("cache") == "public":
            headers[1] = ("Cache-Control", "public, max-age=60")
        path = _trial_path(request)
        attributes = f"; Path={path}; Max-Age={TRIAL_SECONDS}; HttpOnly"
        secure = "; Secure" if request.scheme == "https" else ""
        size = _size(query, "set_cookie")
        if size:
            line = f"trial={attributes}{secure}; SameSite=Lax"
            room = max(0, size - len("Set-Cookie: \r\n") - len(line))
            headers.append(("Set-Cookie", f"trial={'0' * room}{line.removeprefix('trial=')}"))
        if "attributes" in query:
            report["lines"] = [
                f"__Secure-trial=kept{attributes}; Secure; SameSite=None; Partitioned",
                f"trial-lax=kept{attributes}; Secure; SameSite=Lax",
                f"trial-gone=; Path={path}; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
            ]
            headers += [("Set-Cookie", line) for line in report["lines"]]
        size = _size(query, "response")
        if size:
            report["padding"] = 0
            length = len(json.dumps({**report, "padding": size}).encode()) + 1
            headers.append(("Content-Length", str(length)))
            left = size - sum(len(name) + len(value) + 4 for name, value in headers)
            while left > len("X-Trial: \r\n"):
                value = "0" * (min(left, PADDING_LINE) - len("X-Trial: \r\n"))
                headers.append(("X-Trial", value))
                report["padding"] += len(value)
                left -= len(value) + len("X-Trial: \r\n")
            # The length was announced before the sum was known, and blanks change no JSON.
            body = json.dumps(report).encode()
            return PathResponse("200 OK", headers, body.ljust(length - 1) + b"\n")
        body = json.dumps(report).encode() + b"\n"
        headers.append(("Content-Length", str(len(body))))
        return PathResponse("200 OK", headers, body)


def server_name(software: str) -> str:
    """The name of a server by what it calls itself, such as ``gunicorn/27.0.1``."""
    known = {"wsgiserver": "wsgiref", "cheroot": "CherryPy", "granian": "Granian", "daphne": "Daphne"}
    name = re.split(r"[/ ]", software, maxsplit=1)[0]
    return known.get(name.lower(), name)


def _size(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    return min(int(text), MOST_BYTES) if re.fullmatch(r"[0-9]{1,6}", text) else 0


def _trial_path(request: PathRequest) -> str:
    """The Path of trial cookies."""
    return f"{quote(request.mount.rstrip('/'))}/trial"


def _text(status: str, text: str) -> PathResponse:
    body = text.encode() + b"\n"
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    return PathResponse(status, [*headers, _NO_STORE], body)

"""What the headers of a response owe to a session: for adapters, whose headers are text or bytes.

A response that depends on the session says so to caches (Vary), and no cache stores a response that
sets its cookies, whatever the application said: it could serve one user's session to another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from ._cookies.header import field_bytes

__all__ = ["cookie_header", "set_cookie_bytes", "with_raw_session", "with_session"]

Headers: TypeAlias = list[tuple[str, str]]
RawHeaders: TypeAlias = list[tuple[bytes, bytes]]

SET_COOKIE_CHARS = len("Set-Cookie")
_VARY = ("Vary", "Cookie")
_NO_STORE = ("Cache-Control", "no-store, private")
_RAW_VARY, _RAW_NO_STORE = (b"vary", b"Cookie"), (b"cache-control", b"no-store, private")
# A comma inside a quoted string separates nothing.
_MEMBER = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"?)+')
_CONTRADICTING = frozenset(
    {"public", "max-age", "s-maxage", "no-store", "private", "immutable"}
    | {"stale-while-revalidate", "stale-if-error", "must-understand"}
)
# Fields that some caches obey before Cache-Control (RFC 9213), and what forbids storing in each;
# in any other that ends in -cache-control, no-store does.
_TARGETED = {
    "expires": "Thu, 01 Jan 1970 00:00:00 GMT",
    "x-accel-expires": "0",
    "surrogate-control": "no-store",
    "edge-control": "no-store",
    "x-litespeed-cache-control": "no-cache",
}
# Names of fields that `with_session` leaves alone, as they are mostly written.
_UNRELATED = frozenset(
    spelling
    for name in (
        "Content-Type",
        "Content-Length",
        "Content-Language",
        "Content-Encoding",
        "Content-Disposition",
        "Content-Security-Policy",
        "Cross-Origin-Opener-Policy",
        "Date",
        "ETag",
        "Last-Modified",
        "Location",
        "Referrer-Policy",
        "Server",
        "Set-Cookie",
        "Strict-Transport-Security",
        "X-Content-Type-Options",
        "X-Frame-Options",
        "X-Request-ID",
    )
    for spelling in (name, name.lower())
)
# Fields that `with_session` merges or changes, beside those that end in -control.
_MERGED = frozenset({b"vary", b"expires", b"x-accel-expires"})


def set_cookie_bytes(headers: Iterable[tuple[str, str]] | Iterable[tuple[bytes, bytes]]) -> int:
    """What the Set-Cookie fields of a response take, in bytes: `other_bytes` of `Keeper.save`."""
    total = 0
    for name, value in headers:
        if len(name) == SET_COOKIE_CHARS and name.lower() in ("set-cookie", b"set-cookie"):
            total += field_bytes(value)
    return total


def cookie_header(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The Cookie header of a request of bytes; HTTP/2 may send it in several fields (RFC 9113)."""
    values = [value for name, value in headers if len(name) == 6 and name.lower() == b"cookie"]
    return b"; ".join(values).decode("latin-1")


def with_session(headers: Headers, lines: Sequence[str]) -> Headers:
    """The fields of a response whose application has used its session.

    `lines`: what `Keeper.save` returned. One Vary line names Cookie. With lines, one Cache-Control
    line and the fields for certain caches (RFC 9213) forbid to store the response.
    """
    together = ""
    for name, _ in headers:
        if name not in _UNRELATED:
            together = " ".join([name for name, _ in headers]).lower()
            break
    if not ("vary" in together or "-control" in together or "expires" in together):
        # The usual case: nothing to merge with and nothing to override.
        headers = [*headers, _VARY]
        if lines:
            headers.append(_NO_STORE)
            for line in lines:
                headers.append(("Set-Cookie", line))
        return headers
    names = [name.lower() for name, _ in headers]
    headers = _vary_on_cookie(headers) if "vary" in names else [*headers, _VARY]
    if lines:
        if "expires" in together or "-control" in together:
            headers = [_override_targeted(name, value) for name, value in headers]
        headers = _forbid_storing(headers) if "cache-control" in names else [*headers, _NO_STORE]
        headers += [("Set-Cookie", line) for line in lines]
    elif names.count("cache-control") > 1:
        headers = _with_one(headers, "Cache-Control", ", ".join(_directives(headers)))
    return headers


def with_raw_session(headers: Iterable[tuple[bytes, bytes]], lines: Sequence[str]) -> RawHeaders:
    """The same for fields of bytes; all names are then in small letters, as ASGI has them."""
    fields: RawHeaders = []
    is_merged = False
    for name, value in headers:
        lowered = name.lower()
        fields.append((lowered, value))
        if lowered in _MERGED or lowered.endswith(b"-control"):
            is_merged = True
    if is_merged:
        texts = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
        return [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in with_session(texts, lines)
        ]
    fields.append(_RAW_VARY)
    if lines:
        fields.append(_RAW_NO_STORE)
        fields += [(b"set-cookie", line.encode("latin-1")) for line in lines]
    return fields


def _vary_on_cookie(headers: Headers) -> Headers:
    """`headers` with one Vary line that contains Cookie or is ``*`` (RFC 9110, 12.5.5).

    nginx before 1.23 obeys only the last of several lines.
    """
    values = [value for name, value in headers if name.lower() == "vary"]
    members = [member.strip(" \t") for value in values for member in value.split(",")]
    names = [member.lower() for member in members]
    if "*" in names:
        return _with_one(headers, "Vary", "*")
    if len(values) == 1 and "cookie" in names:
        return list(headers)
    merged: dict[str, str] = {}
    for name, member in zip([*names, "cookie"], [*members, "Cookie"], strict=True):
        if member:
            merged.setdefault(name, member)
    return _with_one(headers, "Vary", ", ".join(merged.values()))


def _forbid_storing(headers: Headers) -> Headers:
    """`headers` with a Cache-Control under which no cache stores the response.

    Directives of the application that do not contradict it stay, such as no-transform
    (RFC 9111, 5.2.2).
    """
    kept = [
        member
        for member in _directives(headers)
        if member.partition("=")[0].lower() not in _CONTRADICTING or member.lower() == "max-age=0"
    ]
    return _with_one(headers, "Cache-Control", ", ".join(["no-store", "private", *kept]))


def _directives(headers: Headers) -> list[str]:
    """The members of all Cache-Control lines."""
    values = [value for name, value in headers if name.lower() == "cache-control"]
    members = (member.strip(" \t") for value in values for member in _MEMBER.findall(value))
    return [member for member in members if member]


def _override_targeted(name: str, value: str) -> tuple[str, str]:
    """A header field, with a value that forbids storing if it is for one kind of cache."""
    lowered = name.lower()
    if lowered == "surrogate-control":
        # What asks for processing of the page stays, such as content="ESI/1.0".
        content = [part.strip(" \t") for part in _MEMBER.findall(value) if "content=" in part]
        return name, ", ".join([_TARGETED[lowered], *content])
    if lowered in _TARGETED or lowered.endswith("-cache-control"):
        return name, _TARGETED.get(lowered, "no-store")
    return name, value


def _with_one(headers: Headers, name: str, value: str) -> Headers:
    """`headers` with one line of this name, in the place of the first of several."""
    names = [each.lower() for each, _ in headers]
    others = [field for field in headers if field[0].lower() != name.lower()]
    others.insert(names.index(name.lower()), (name, value))
    return others

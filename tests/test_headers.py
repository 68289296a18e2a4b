"""What response headers owe to a session, as text and as bytes."""

from __future__ import annotations

import pytest

from sealedstate.headers import cookie_header, set_cookie_bytes, with_raw_session, with_session

LINE = "s=abc; Path=/; Secure"
RESPONSES: list[list[tuple[str, str]]] = [
    [],
    [("Content-Type", "text/html")],
    [("Vary", "Accept"), ("vary", "cookie")],
    [("Cache-Control", "public, max-age=60"), ("Expires", "0"), ("CDN-Cache-Control", "max-age=9")],
    [("Set-Cookie", "theme=dark"), ("X-Name", "caf\xe9")],
]


@pytest.mark.parametrize("headers", RESPONSES)
@pytest.mark.parametrize("lines", [[], [LINE], [LINE, "s-1=def; Path=/"]])
def test_bytes_get_what_text_gets(headers: list[tuple[str, str]], lines: list[str]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    expected = [(name.lower(), value) for name, value in with_session(headers, lines)]
    got = with_raw_session(raw, lines)
    assert [(name.decode(), value.decode("latin-1")) for name, value in got] == expected
    assert set_cookie_bytes(raw) == set_cookie_bytes(headers)


def test_response_with_a_session_varies_and_is_stored_by_nobody() -> None:
    assert with_session([], []) == [("Vary", "Cookie")]
    assert with_session([("Cache-Control", "public")], [LINE]) == [
        ("Cache-Control", "no-store, private"),
        ("Vary", "Cookie"),
        ("Set-Cookie", LINE),
    ]


def test_cookie_fields_of_http2_are_one_header() -> None:
    fields = [(b"cookie", b"a=1"), (b"host", b"x"), (b"Cookie", b"s=\xe9; b=2")]
    assert cookie_header(fields) == "a=1; s=\xe9; b=2"
    assert cookie_header([]) == ""

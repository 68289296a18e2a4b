"""Cookies: ours are found among anything, exactly by name; nothing breaks out of what we write."""

from __future__ import annotations

import re
import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.http import parse_cookie

from sealedstate import ConfigurationError
from sealedstate._cookies.header import (
    MAX_CANDIDATES,
    MAX_HEADER_CHARS,
    Candidates,
    CookieFamily,
    field_bytes,
)

FAMILY = CookieFamily("__Host-s")
NAME_LETTERS = "abcXYZ019!#$%&'*+.^_`|~-"
VALUE_LETTERS = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '",;\\')


def found(header: str, family: CookieFamily = FAMILY) -> tuple[Any, dict[int, Any]]:
    candidates = family.find(header)
    assert candidates.foreign_bytes + candidates.our_bytes == len(header)
    return candidates.core, dict(candidates.overflow)


PIECES = st.sampled_from(
    ["__Host-s", "__Host-s-1", "__Host-", "x", "=", ";", "; ", " ", "\t", "\xa0", '"', "AAAA", "=="]
)


@given(st.lists(PIECES, max_size=12).map("".join))
@example("__Host-s= AAAA")
@example("x=1;__Host-s=AAAA \t")
def test_a_single_cookie_is_found_as_one_among_several_is(header: str) -> None:
    """What finds a single one at once finds what looking at each pair does."""
    known = FAMILY.find(header)
    assert known == FAMILY._scan(header)
    assert known.core == FAMILY.find(f"{header}; x=__Host-s").core


# --- hostile headers, and exactly what they give --------------------------------------------------

NOTHING: tuple[tuple[str, ...], dict[int, tuple[str, ...]]] = ((), {})
HOSTILE: dict[str, tuple[str, tuple[tuple[str, ...], dict[int, tuple[str, ...]]]]] = {
    # Names that only look like ours.
    "no-break space before": ("\xa0__Host-s=evil", NOTHING),
    "no-break space behind": ("__Host-s\xa0=evil", NOTHING),
    "em space before": ("\u2003__Host-s=evil", NOTHING),
    "ideographic space before": ("\u3000__Host-s=evil; __Host-s=good", (("good",), {})),
    "next line before": ("\x85__Host-s=evil", NOTHING),
    "unit separator before": ("\x1f__Host-s=evil", NOTHING),
    "vertical tab before": ("\x0b__Host-s=evil", NOTHING),
    "form feed before": ("\x0c__Host-s=evil", NOTHING),
    "line break before": ("a=b\r\n__Host-s=evil", NOTHING),
    "line break behind a semicolon": ("a=b;\r\n__Host-s=evil", NOTHING),
    "zero byte before": ("\x00__Host-s=evil", NOTHING),
    "zero byte behind": ("__Host-s\x00=evil", NOTHING),
    "byte order mark before": ("\ufeff__Host-s=evil", NOTHING),
    "zero width space inside": ("__Host-\u200bs=evil", NOTHING),
    "percent name": ("%5F%5FHost-s=evil", NOTHING),
    "percent name in part": ("__Host%2Ds=evil", NOTHING),
    "other case": ("__host-s=evil; __HOST-S=evil; __Host-S=evil", NOTHING),
    "full-width letter": ("__Host-ｓ=evil", NOTHING),
    "Cyrillic letter": ("__Host-ѕ=evil", NOTHING),
    "quoted name": ('"__Host-s"=evil', NOTHING),
    "blank before the equals sign": ("__Host-s =evil", NOTHING),
    "tab before the equals sign": ("__Host-s\t=evil", NOTHING),
    "dollar name": ("$__Host-s=evil", NOTHING),
    "longer name": ("x__Host-s=evil; __Host-s2=evil; __Host-ss=evil", NOTHING),
    "shorter name": ("__Host-=evil; __Host=evil; s=evil", NOTHING),
    "array name": ("__Host-s[]=evil; __Host-s[0]=evil; __Host-s.x=evil", NOTHING),
    # Cookies without a name.
    "nameless with our name for a value": ("=__Host-s=evil", NOTHING),
    "nameless twice": ("==__Host-s=evil", NOTHING),
    "nameless with a blank": ("= __Host-s=evil", NOTHING),
    "a name alone": ("__Host-s", NOTHING),
    "a name alone and then good": ("__Host-s; __Host-s=good", (("good",), {})),
    # Values that swallow, or would.
    "quoted foreign value": ('x="a; __Host-s=good; y=b"', (("good",), {})),
    "unclosed quote": ('x="; __Host-s=good', (("good",), {})),
    "escaped quote": ('x="\\"; __Host-s=good', (("good",), {})),
    "quoted own value": ('__Host-s="good"', (('"good"',), {})),
    "comma": ("a=b,__Host-s=evil", NOTHING),
    "comma behind": ("__Host-s=good,a=b", (("good,a=b",), {})),
    "own name in a value": ("x=__Host-s=evil; y=a__Host-s=evil", NOTHING),
    "JSON": ('{"__Host-s":1}=2; __Host-s=good', (("good",), {})),
    "JSON with a semicolon": ('p={"a":1;"__Host-s=evil"}; __Host-s=good', (("good",), {})),
    "two words and a control": ("x=a b,c; \x01; __Host-s=good", (("good",), {})),
    "UTF-8 in Latin-1": ("n=Ã¼; __Host-s=good; Ã¼=n", (("good",), {})),
    "semicolons only": (";;; ; ;\t;__Host-s=good;;", (("good",), {})),
    "no blank behind": ("a=b;__Host-s=good;c=d", (("good",), {})),
    "blanks and tabs around": ("a=b; \t __Host-s=good \t ; c=d", (("good",), {})),
    "an equals sign in the value": ("__Host-s=a=b==", (("a=b==",), {})),
    "empty value": ("__Host-s=", (("",), {})),
    # Numbers.
    "chunk 1": ("__Host-s-1=a", ((), {1: ("a",)})),
    "chunk 7": ("__Host-s-7=a", ((), {7: ("a",)})),
    "chunk 0": ("__Host-s-0=a", NOTHING),
    "chunk 8": ("__Host-s-8=a", NOTHING),
    "chunk 9": ("__Host-s-9=a; __Host-s-10=b", NOTHING),
    "chunk 01": ("__Host-s-01=a", NOTHING),
    "chunk +1": ("__Host-s-+1=a; __Host-s--1=a; __Host-s-1_=a", NOTHING),
    "chunk 1 with a blank": ("__Host-s- 1=a; __Host-s-1 =a", NOTHING),
    "chunk in Arabic digits": ("__Host-s-١=a", NOTHING),
    "chunk in full-width digits": ("__Host-s-１=a", NOTHING),
    "chunk as a superscript": ("__Host-s-¹=a; __Host-s-²=b", NOTHING),
    "chunk as a fraction": ("__Host-s-½=a", NOTHING),
    "chunk with many digits": (f"__Host-s-{'1' * 5000}=a", NOTHING),
    "chunk in hexadecimal": ("__Host-s-0x1=a; __Host-s-1e0=a", NOTHING),
    "chunks in any order": (
        "__Host-s-3=c; __Host-s=x; __Host-s-1=a; __Host-s-2=b",
        (("x",), {1: ("a",), 2: ("b",), 3: ("c",)}),
    ),
    # More than one.
    "the same twice counts once": ("__Host-s=a; __Host-s=a; __Host-s=a", (("a",), {})),
    "duplicates in their order": ("__Host-s=b; __Host-s=a; __Host-s=b", (("b", "a"), {})),
    "four candidates at most": (
        "; ".join(f"__Host-s={number}" for number in range(9)),
        (("0", "1", "2", "3"), {}),
    ),
    "four candidates of a chunk at most": (
        "; ".join(f"__Host-s-2={number % 7}" for number in range(20)),
        ((), {2: ("0", "1", "2", "3")}),
    ),
    # Nothing at all.
    "empty": ("", NOTHING),
    "one semicolon": (";", NOTHING),
    "one equals sign": ("=", NOTHING),
    "one quote": ('"', NOTHING),
}


def test_there_are_at_least_thirty_hostile_headers() -> None:
    assert len(HOSTILE) >= 30


@pytest.mark.parametrize(("header", "expected"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_header_gives_exactly_what_is_ours(header: str, expected: Any) -> None:
    assert found(header) == expected


@pytest.mark.parametrize(("header", "expected"), HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize(
    ("before", "behind"),
    [
        ("a=b; ", "; c=d"),
        ("; ;", ";"),
        ('q="', '"'),
        ("\x01=\xff; ", "; =x"),
        ("theme=dark; _ga=GA1.2.3; ", ""),
        ("x=" + "y" * 9000 + "; ", "; z"),
    ],
)
def test_foreign_cookies_around_a_hostile_header_change_nothing(
    header: str, expected: Any, before: str, behind: str
) -> None:
    core, overflow = found(before + ";" + header + ";" + behind)
    assert (core, overflow) == expected


def test_a_plain_name_is_not_found_within_others() -> None:
    family = CookieFamily("s", secure=False)
    header = "ss=1; as=2; s2=3; s-8=4; s--1=5; __Host-s=6; S=7; s=good; s-1=chunk"
    assert found(header, family) == (("good",), {1: ("chunk",)})


def test_a_header_beyond_64_kilobytes_is_not_looked_at() -> None:
    ours = "__Host-s=good; "
    fits = ours + "x" * (MAX_HEADER_CHARS - len(ours))
    assert found(fits) == (("good",), {})
    assert FAMILY.find(fits + "x") == Candidates(foreign_bytes=MAX_HEADER_CHARS + 1)


# --- our bytes and theirs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "ours"),
    [
        ("__Host-s=abc", 12),
        ("__Host-s=abc; a=b", 13),
        ("a=b; __Host-s=abc", 14),
        ("a=b; __Host-s=abc; __Host-s-1=de; c=d", 14 + 15),
        ("a=b; __Host-s-8=abc", 0),
        ("a=b", 0),
    ],
)
def test_bytes_are_counted_as_ours_or_as_foreign_with_their_separators(
    header: str, ours: int
) -> None:
    candidates = FAMILY.find(header)
    assert candidates.our_bytes == ours
    assert candidates.foreign_bytes == len(header) - ours
    assert candidates.any_of_ours is (ours > 0)


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_around_leaves_our_cookie_where_it_is(before: str, behind: str) -> None:
    core, _ = found(f"{before};__Host-s=good;{behind}")
    assert "good" in core or len(core) == MAX_CANDIDATES


@given(st.text(max_size=200))
@example('__Host-s="')
@example("__Host-s-1=;__Host-s-1=")
def test_any_text_is_read_without_an_error(header: str) -> None:
    core, overflow = found(header)
    assert len(core) <= MAX_CANDIDATES
    for number, values in overflow.items():
        assert 1 <= number <= 7
        assert 1 <= len(values) <= MAX_CANDIDATES
        assert len(set(values)) == len(values)


# --- the same as another parser, where a header is valid ------------------------------------------

NAMES = st.sampled_from(["__Host-s", "__Host-s-1", "__Host-s-2"]) | st.text(
    NAME_LETTERS, min_size=1, max_size=8
)
PAIRS = st.lists(st.tuples(NAMES, st.text(VALUE_LETTERS, max_size=10)), max_size=8)


@given(PAIRS)
def test_a_valid_header_is_read_as_werkzeug_reads_it(pairs: list[tuple[str, str]]) -> None:
    header = "; ".join(f"{name}={value}" for name, value in pairs)
    theirs = parse_cookie(header)
    core, overflow = found(header)
    for number, name in enumerate(("__Host-s", "__Host-s-1", "__Host-s-2")):
        values = tuple(dict.fromkeys(theirs.getlist(name)))[:MAX_CANDIDATES]
        assert (core if number == 0 else overflow.get(number, ())) == values


# --- linear, counted and not timed ----------------------------------------------------------------


def steps(header: str) -> Counter[str]:
    """How often a line of ours was reached, and a function called, to read `header`."""
    counted: Counter[str] = Counter()

    def traced(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename.endswith("_cookies/header.py"):
            counted[event] += 1
            return traced
        return None

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        FAMILY.find(header)
    finally:
        sys.settrace(before)
    return counted


@pytest.mark.parametrize(
    "piece",
    [
        "\\",
        ";",
        '"',
        "=",
        "; ",
        '";',
        "=;",
        "a=b;",
        '\\";',
        '="\\',
        "__Host-s;",
        "__Host-s=;",
        "__Host-s-1=;",
        "__Host-s-9=;",
        " \t;",
    ],
    ids=ascii,
)
def test_twice_the_header_takes_twice_the_steps(piece: str) -> None:
    # Our name is in it, or the scan would not begin.
    small, large = (steps("__Host-s=x;" + piece * (size // len(piece))) for size in (8_000, 64_000))
    assert small["line"] > 0
    for event in ("line", "call"):
        assert large[event] <= 8.1 * small[event] + 50
    assert large["line"] <= 10 * 64_000


@pytest.mark.parametrize("letter", [";", "=", '"', "\\", " ", "\t", ",", "\xa0", "a", "-"])
def test_a_header_of_64_kilobytes_of_one_letter_is_read(letter: str) -> None:
    header = letter * MAX_HEADER_CHARS
    assert found(header) == NOTHING
    ours = "__Host-s=good;"
    at_end = header[: -len(ours)] + ";" + ours[:-1]
    expected = ("good",) if len(at_end) <= MAX_HEADER_CHARS else ()
    assert found(at_end)[0] == expected == ("good",)


def test_thousands_of_values_of_ours_leave_four_candidates() -> None:
    header = ";".join(f"__Host-s={number}" for number in range(4500))
    assert len(header) <= MAX_HEADER_CHARS
    assert found(header) == (("0", "1", "2", "3"), {})


# --- what is written ------------------------------------------------------------------------------


def test_a_line_has_every_attribute_of_its_family() -> None:
    assert FAMILY.set_line("__Host-s", "abc", None) == (
        "__Host-s=abc; Path=/; Secure; HttpOnly; SameSite=Lax"
    )
    assert FAMILY.set_line("__Host-s-1", "a._-", 60) == (
        "__Host-s-1=a._-; Max-Age=60; Path=/; Secure; HttpOnly; SameSite=Lax"
    )
    family = CookieFamily("sid", True, "None", "/app", "example.org", True)
    assert family.set_line("sid", "x", 0) == (
        "sid=x; Max-Age=0; Path=/app; Domain=example.org; Secure; HttpOnly; SameSite=None;"
        " Partitioned"
    )
    plain = CookieFamily("s", secure=False, same_site="Strict")
    assert plain.set_line("s", "x", None) == "s=x; Path=/; HttpOnly; SameSite=Strict"


@pytest.mark.parametrize(
    "family",
    [
        FAMILY,
        CookieFamily("s", False, "Strict", "/app", "example.org"),
        CookieFamily("__Secure-s", True, "None", "/", None, True),
    ],
    ids=lambda family: family.name,
)
def test_a_deletion_carries_the_attributes_that_set_the_cookie(family: CookieFamily) -> None:
    for name in (family.name, family.chunk_name(3)):
        written = family.set_line(name, "x", 60).split("; ")
        deleted = family.delete_line(name).split("; ")
        assert deleted[:2] == [f"{name}=", "Max-Age=0"]
        assert deleted[2:] == written[2:]


def test_chunks_are_named_by_their_number() -> None:
    assert [FAMILY.chunk_name(number) for number in (1, 7)] == ["__Host-s-1", "__Host-s-7"]
    for number in range(1, 8):
        header = f"{FAMILY.chunk_name(number)}=x"
        assert found(header) == ((), {number: ("x",)})


SHAPE = re.compile(
    r"__Host-s=[A-Za-z0-9._-]*(; Max-Age=\d+)?; Path=/; Secure; HttpOnly; SameSite=Lax", re.ASCII
)


@given(st.text(max_size=20), st.none() | st.integers(0, 10**9))
@example("a; Domain=evil.example", None)
@example("a\r\nSet-Cookie: b=c", None)
@example("a\n", None)
@example("a\0", None)
@example('"a"', None)
@example("１", None)
@example("ä", None)
def test_no_value_breaks_out_of_its_line(value: str, max_age: int | None) -> None:
    if re.fullmatch(r"[A-Za-z0-9._-]*", value, re.ASCII) and not value.endswith("\n"):
        assert SHAPE.fullmatch(FAMILY.set_line("__Host-s", value, max_age))
    else:
        with pytest.raises(ValueError, match="letters, digits"):
            FAMILY.set_line("__Host-s", value, max_age)


@given(st.text("ABCabc019._", max_size=3000), st.none() | st.integers(0, 10**9))
def test_the_overhead_of_a_line_is_what_it_takes_besides_its_value(
    value: str, max_age: int | None
) -> None:
    line = FAMILY.set_line("__Host-s", value, max_age)
    assert field_bytes(line) == FAMILY.line_overhead("__Host-s", max_age) + len(value)
    assert field_bytes(line) == len(f"Set-Cookie: {line}\r\n".encode())


# --- attributes that no browser would keep --------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"name": ""}, "cookie_name"),
    "a name too long": ({"name": "s" * 65}, "cookie_name"),
    "a name with a semicolon": ({"name": "s;"}, "cookie_name"),
    "a name with an equals sign": ({"name": "s=x"}, "cookie_name"),
    "a name with a blank": ({"name": "my session"}, "cookie_name"),
    "a name with a line break": ({"name": "s\n"}, "cookie_name"),
    "a name with a comma": ({"name": "a,b"}, "cookie_name"),
    "a name in Cyrillic": ({"name": "ѕ"}, "cookie_name"),
    "a name with a quote": ({"name": 's"'}, "cookie_name"),
    "no path": ({"path": ""}, "cookie_path"),
    "a path with a semicolon": ({"path": "/;Domain=evil.example"}, "cookie_path"),
    "a path with a line break": ({"path": "/\r\nX: y"}, "cookie_path"),
    "a path with an umlaut": ({"path": "/ä"}, "cookie_path"),
    "a path without its slash": ({"path": "app"}, "cookie_path"),
    "a path too long": ({"path": "/" + "a" * 256}, "cookie_path"),
    "a domain with a semicolon": ({"domain": "a.example;Secure"}, "cookie_domain"),
    "a domain with a line break": ({"domain": "a.example\n"}, "cookie_domain"),
    "a domain in Unicode": ({"domain": "ä.example"}, "cookie_domain"),
    "another same_site": ({"same_site": "lax"}, "same_site"),
    "no same_site": ({"same_site": ""}, "same_site"),
    "__Host- without secure": ({"name": "__Host-s", "secure": False}, "__Host-"),
    "__Host- with a path": ({"name": "__Host-s", "path": "/app"}, "__Host-"),
    "__Host- with a domain": ({"name": "__Host-s", "domain": "a.example"}, "__Host-"),
    "__Secure- without secure": ({"name": "__Secure-s", "secure": False}, "__Secure-"),
    "__host- without secure": ({"name": "__host-s", "secure": False}, "__Host-"),
    "__HOST- with a path": ({"name": "__HOST-s", "path": "/app"}, "__Host-"),
    "__secure- without secure": ({"name": "__secure-s", "secure": False}, "__Secure-"),
    "SameSite=None without secure": ({"same_site": "None", "secure": False}, "same_site"),
    "partitioned without secure": ({"partitioned": True, "secure": False}, "partitioned"),
}


@pytest.mark.parametrize(("given", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_what_no_browser_would_keep_is_refused_at_the_start(
    given: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        CookieFamily(**{"name": "s"} | given)


@pytest.mark.parametrize(
    "given",
    [
        {"name": "__Host-s"},
        {"name": "__Secure-s", "path": "/app", "domain": "example.org"},
        {"name": "!#$%&'*+.^_`|~-9A"},
        {"name": "s" * 64, "secure": False},
        {"path": "/app/~user/%20"},
        {"same_site": "None", "partitioned": True},
        {"same_site": "Strict", "secure": False},
    ],
    ids=str,
)
def test_what_browsers_keep_is_taken(given: dict[str, Any]) -> None:
    family = CookieFamily(**{"name": "s"} | given)
    line = family.set_line(family.name, "abc", 60)
    assert line.startswith(f"{family.name}=abc; Max-Age=60; Path=")
    assert found(f"{family.name}=abc", family) == (("abc",), {})

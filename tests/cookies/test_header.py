"""Our cookies are found exactly by name, and no value breaks out of its Set-Cookie line."""

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
    MAX_CHUNK_VALUES,
    MAX_PAIRS,
    CookieFamily,
    field_bytes,
)
from tests.support.tables import check_each

FAMILY = CookieFamily("__Host-s")
NAME_LETTERS = "abcXYZ019!#$%&'*+.^_`|~-"
VALUE_LETTERS = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '",;\\')


def found(header: str, family: CookieFamily = FAMILY) -> tuple[Any, dict[int, Any]]:
    candidates = family.find(header)
    assert candidates.foreign_bytes + candidates.our_bytes == len(header)
    return candidates.core, dict(candidates.overflow)


PIECES = st.sampled_from(
    ["__Host-s", "__Host-s-1", "__Host-", "x", "=", ";", "; ", ",", " ", "\t", "\xa0", "AAAA", "=="]
)


@given(st.lists(PIECES, max_size=12).map("".join))
@example("__Host-s= AAAA")
@example("x=1;__Host-s=AAAA \t")
@example("x=1,__Host-s=AAAA")
def test_short_way_for_a_single_cookie_finds_what_the_scan_finds(header: str) -> None:
    candidates = FAMILY.find(header)
    assert candidates == FAMILY._scan(header)
    assert candidates.core == FAMILY.find(f"{header}; x=__Host-s").core


# --- hostile headers, and exactly what they give --------------------------------------------------

NOTHING: tuple[tuple[str, ...], dict[int, tuple[str, ...]]] = ((), {})
# Names that only look like ours, values with our name, and headers without a cookie.
FOREIGN = [
    *("\xa0__Host-s=evil", "__Host-s\xa0=evil", "\u2003__Host-s=evil", "\x85__Host-s=evil"),
    *("\x1f__Host-s=evil", "\x0b__Host-s=evil", "\x0c__Host-s=evil", "a=b\r\n__Host-s=evil"),
    *("a=b;\r\n__Host-s=evil", "\x00__Host-s=evil", "__Host-s\x00=evil", "\ufeff__Host-s=evil"),
    *("__Host-\u200bs=evil", "%5F%5FHost-s=evil", "__Host%2Ds=evil"),
    *("__host-s=evil; __HOST-S=evil; __Host-S=evil", "__Host-ｓ=evil", "__Host-ѕ=evil"),
    *('"__Host-s"=evil', "__Host-s =evil", "__Host-s\t=evil", "$__Host-s=evil"),
    *("x__Host-s=evil; __Host-s2=evil; __Host-ss=evil", "__Host-=evil; __Host=evil; s=evil"),
    *("__Host-s[]=evil; __Host-s[0]=evil; __Host-s.x=evil", "=__Host-s=evil", "==__Host-s=evil"),
    *("= __Host-s=evil", "__Host-s", "x=__Host-s=evil; y=a__Host-s=evil"),
    *("", ";", "=", '"'),
]
# Chunk numbers are one digit from 1 to 7.
FOREIGN_CHUNKS = [
    *("__Host-s-0=a", "__Host-s-8=a", "__Host-s-9=a; __Host-s-10=b", "__Host-s-01=a"),
    *("__Host-s-+1=a; __Host-s--1=a; __Host-s-1_=a", "__Host-s- 1=a; __Host-s-1 =a"),
    *("__Host-s-١=a", "__Host-s-１=a", "__Host-s-¹=a; __Host-s-²=b", "__Host-s-½=a"),
    "__Host-s-0x1=a; __Host-s-1e0=a",
    f"__Host-s-{'1' * 5000}=a",
]
OURS: dict[str, tuple[tuple[str, ...], dict[int, tuple[str, ...]]]] = {
    "\u3000__Host-s=evil; __Host-s=good": (("good",), {}),
    "__Host-s; __Host-s=good": (("good",), {}),
    'x="a; __Host-s=good; y=b"': (("good",), {}),
    'x="; __Host-s=good': (("good",), {}),
    'x="\\"; __Host-s=good': (("good",), {}),
    '__Host-s="good"': (('"good"',), {}),
    # Lines that a server joined with a comma.
    "__Host-s=good,a=b": (("good",), {}),
    "a=b,__Host-s=good": (("good",), {}),
    "a=b, \t __Host-s=good \t , c=d": (("good",), {}),
    "a=b; c=d,__Host-s=good; e=f": (("good",), {}),
    "x=1,,__Host-s=good,": (("good",), {}),
    "x=1,__Host-s=a,__Host-s=b": (("a", "b"), {}),
    "__Host-s-2=b,__Host-s=good,__Host-s-1=a": (("good",), {1: ("a",), 2: ("b",)}),
    # What follows a comma is no candidate beside what follows a semicolon.
    "__Host-s=good; x=1,__Host-s=evil": (("good",), {}),
    "x=1,__Host-s=0,__Host-s=1,__Host-s=2,__Host-s=3,__Host-s=4; __Host-s=good": (("good",), {}),
    "__Host-s-1=a; x=1,__Host-s-1=0,__Host-s-1=1,__Host-s-1=2,__Host-s-1=3": (
        (),
        {1: ("a", "0", "1", "2")},
    ),
    '{"__Host-s":1}=2; __Host-s=good': (("good",), {}),
    'p={"a":1;"__Host-s=evil"}; __Host-s=good': (("good",), {}),
    "x=a b,c; \x01; __Host-s=good": (("good",), {}),
    "n=Ã¼; __Host-s=good; Ã¼=n": (("good",), {}),
    ";;; ; ;\t;__Host-s=good;;": (("good",), {}),
    "a=b;__Host-s=good;c=d": (("good",), {}),
    "a=b; \t __Host-s=good \t ; c=d": (("good",), {}),
    "__Host-s=a=b==": (("a=b==",), {}),
    "__Host-s=": (("",), {}),
    "__Host-s-1=a": ((), {1: ("a",)}),
    "__Host-s-7=a": ((), {7: ("a",)}),
    "__Host-s-3=c; __Host-s=x; __Host-s-1=a; __Host-s-2=b": (
        ("x",),
        {1: ("a",), 2: ("b",), 3: ("c",)},
    ),
    "__Host-s=a; __Host-s=a; __Host-s=a": (("a",), {}),
    "__Host-s=b; __Host-s=a; __Host-s=b": (("b", "a"), {}),
    # At most 16 candidates for the core, and 4 for a chunk.
    "; ".join(f"__Host-s={number}" for number in range(20)): (tuple(map(str, range(16))), {}),
    "; ".join(f"__Host-s-2={number % 7}" for number in range(20)): (
        (),
        {2: ("0", "1", "2", "3")},
    ),
}
AROUND = [
    ("", ""),
    ("a=b; ", "; c=d"),
    ("; ;", ";"),
    ('q="', '"'),
    ("\x01=\xff; ", "; =x"),
    ("theme=dark; _ga=GA1.2.3; ", ""),
    ("x=" + "y" * 9000 + "; ", "; z"),
]


def test_hostile_header_gives_exactly_our_cookies_whatever_is_around_it() -> None:
    def check(case: tuple[str, Any]) -> None:
        header, expected = case
        assert found(header) == expected
        for before, behind in AROUND:
            assert found(f"{before};{header};{behind}") == expected

    cases = OURS | dict.fromkeys([*FOREIGN, *FOREIGN_CHUNKS], NOTHING)
    check_each(cases.items(), check)


def test_plain_name_is_not_found_within_other_names() -> None:
    family = CookieFamily("s", secure=False)
    header = "ss=1; as=2; s2=3; s-8=4; s--1=5; __Host-s=6; S=7; s-s=8; s s=9; s=good; s-1=chunk"
    assert found(header, family) == (("good",), {1: ("chunk",)})


def test_value_after_a_comma_waits_for_the_others_to_fail() -> None:
    candidates = FAMILY.find("__Host-s=good; x=1,__Host-s=a,__Host-s=b")
    assert candidates.joined is not None
    assert (candidates.joined.core, candidates.joined.crowded) == (("a", "b"), False)
    many = ",".join(f"__Host-s={number}" for number in range(17))
    assert FAMILY.find(f"x=1,{many}").crowded
    candidates = FAMILY.find(f"__Host-s=good; x=1,{many}")
    assert candidates.joined is not None
    assert (candidates.crowded, candidates.joined.crowded) == (False, True)


def test_as_many_pairs_of_our_names_as_no_browser_sends_are_not_all_looked_at() -> None:
    good = "__Host-s=good"
    for pairs, is_crowded in ((MAX_PAIRS, False), (MAX_PAIRS + 1, True)):
        candidates = FAMILY.find("; ".join(["__Host-s=a"] * (pairs - 1) + [good]))
        assert candidates.crowded is is_crowded
        assert candidates.core == (("a",) if is_crowded else ("a", "good"))
    # What may be in the value of a foreign cookie hides nothing.
    foreign = "x=1" + ",__Host-s=a" * 1000
    assert FAMILY.find(f"{foreign}; {good}").core == ("good",)
    assert not FAMILY.find(f"{foreign}; {good}").crowded


def test_comma_separates_nothing_where_the_settings_say_so() -> None:
    family = CookieFamily("__Host-s", joined_lines=False)
    for header in ("a=b,__Host-s=evil", "a=b, __Host-s=evil; c=d", "x=1,__Host-s-1=evil"):
        assert found(header, family) == NOTHING
    assert found("x=1,__Host-s=evil; __Host-s=good", family) == (("good",), {})


def test_header_of_any_length_is_read() -> None:
    for size in (1 << 16, 1 << 18, 1 << 22):
        filler = f"x={'y' * size}"
        for header in (
            f"__Host-s=good; {filler}",
            f"{filler}; __Host-s=good",
            f"{filler},__Host-s=good",
        ):
            assert found(header) == (("good",), {})


# --- our bytes and theirs -------------------------------------------------------------------------


def test_bytes_are_counted_as_ours_or_as_foreign_with_their_separators() -> None:
    for header, ours in (
        ("__Host-s=abc", 12),
        ("__Host-s=abc; a=b", 13),
        ("a=b; __Host-s=abc", 14),
        ("a=b; __Host-s=abc; __Host-s-1=de; c=d", 14 + 15),
        ("a=b; __Host-s-8=abc", 0),
        ("__Host-s=abc,a=b", 13),
        ("a=b,__Host-s=abc", 13),
        ("a=b,__Host-s=abc,__Host-s-1=de,c=d", 13 + 14),
        ("a=b, __Host-s=abc, c=d", 14),
        ("a=b", 0),
    ):
        candidates = FAMILY.find(header)
        assert (candidates.our_bytes, candidates.foreign_bytes) == (ours, len(header) - ours)
        assert bool(candidates.core or candidates.overflow) is (ours > 0)


@given(st.text(max_size=60), st.text(max_size=60))
def test_our_cookie_is_found_in_any_text(before: str, behind: str) -> None:
    core, _ = found(f"{before};__Host-s=good;{behind}")
    assert "good" in core or len(core) == MAX_CANDIDATES


@given(st.text(max_size=200))
@example('__Host-s="')
@example("__Host-s-1=;__Host-s-1=")
def test_any_text_gives_a_limited_number_of_candidates(header: str) -> None:
    core, overflow = found(header)
    assert len(core) <= MAX_CANDIDATES
    for number, values in overflow.items():
        assert 1 <= number <= 7
        assert 1 <= len(values) <= MAX_CHUNK_VALUES
        assert len(set(values)) == len(values)


NAMES = st.sampled_from(["__Host-s", "__Host-s-1", "__Host-s-2"]) | st.text(
    NAME_LETTERS, min_size=1, max_size=8
)
PAIRS = st.lists(st.tuples(NAMES, st.text(VALUE_LETTERS, max_size=10)), max_size=8)


@given(PAIRS)
def test_valid_header_is_read_as_werkzeug_reads_it(pairs: list[tuple[str, str]]) -> None:
    header = "; ".join(f"{name}={value}" for name, value in pairs)
    theirs = parse_cookie(header)
    core, overflow = found(header)
    for number, name in enumerate(("__Host-s", "__Host-s-1", "__Host-s-2")):
        limit = MAX_CHUNK_VALUES if number else MAX_CANDIDATES
        values = tuple(dict.fromkeys(theirs.getlist(name)))[:limit]
        assert (core if number == 0 else overflow.get(number, ())) == values


def steps(header: str) -> Counter[str]:
    """How many lines and functions of the module run while `header` is read."""
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


REPEATED = ("\\", ";", '"', "=", "; ", '";', "=;", "a=b;", '\\";', '="\\', " \t;", ",", " ", ", ")
OUR_PIECES = (
    "__Host-s;",
    "__Host-s=;",
    "__Host-s-1=;",
    "__Host-s-9=;",
    "x,__Host-s=",
    " __Host-s=",
)


def test_steps_grow_linearly_with_the_header() -> None:
    def check(piece: str) -> None:
        # With our name in it, because the scan does not begin otherwise.
        headers = ("__Host-s=x;" + piece * (size // len(piece)) for size in (8_000, 64_000))
        small, large = map(steps, headers)
        assert small["line"] > 0
        for event in ("line", "call"):
            assert large[event] <= 8.1 * small[event] + 50
        assert large["line"] <= 10 * 64_000

    check_each([*REPEATED, *OUR_PIECES], check)


def test_header_of_one_letter_or_of_our_name_alone_is_read() -> None:
    for letter in (";", "=", '"', "\\", " ", "\t", ",", "\xa0", "a", "-"):
        header = letter * (1 << 18)
        assert found(header) == NOTHING
        assert found(f"{header};__Host-s=good")[0] == ("good",)
    header = ";".join(f"__Host-s={number}" for number in range(20_000))
    assert found(header) == (tuple(map(str, range(16))), {})


# --- Set-Cookie lines -----------------------------------------------------------------------------


def test_line_has_the_attributes_of_its_family() -> None:
    assert FAMILY.set_line("__Host-s", "abc", None) == (
        "__Host-s=abc; Path=/; Secure; HttpOnly; SameSite=Lax"
    )
    assert FAMILY.set_line("__Host-s-1", "a*_", 60) == (
        "__Host-s-1=a*_; Max-Age=60; Path=/; Secure; HttpOnly; SameSite=Lax"
    )
    family = CookieFamily("sid", True, "None", "/app", "example.org", True)
    assert family.set_line("sid", "x", 0) == (
        "sid=x; Max-Age=0; Path=/app; Domain=example.org; Secure; HttpOnly; SameSite=None;"
        " Partitioned"
    )
    plain = CookieFamily("s", secure=False, same_site="Strict")
    assert plain.set_line("s", "x", None) == "s=x; Path=/; HttpOnly; SameSite=Strict"


def test_deletion_has_the_attributes_that_set_the_cookie() -> None:
    for family in (
        FAMILY,
        CookieFamily("s", False, "Strict", "/app", "example.org"),
        CookieFamily("__Secure-s", True, "None", "/", None, True),
    ):
        for name in (family.name, family.chunk_name(3)):
            attributes = family.set_line(name, "x", 60).split("; ")[2:]
            assert family.delete_line(name).split("; ") == [f"{name}=", "Max-Age=0", *attributes]


SHAPE = re.compile(
    r"__Host-s=[A-Za-z0-9*_]*(; Max-Age=\d+)?; Path=/; Secure; HttpOnly; SameSite=Lax", re.ASCII
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
    if re.fullmatch(r"[A-Za-z0-9*_]*", value, re.ASCII) and not value.endswith("\n"):
        assert SHAPE.fullmatch(FAMILY.set_line("__Host-s", value, max_age))
    else:
        with pytest.raises(ValueError, match="letters, digits"):
            FAMILY.set_line("__Host-s", value, max_age)


@given(st.text("ABCabc019*_", max_size=3000), st.none() | st.integers(0, 10**9))
def test_line_overhead_is_its_size_without_the_value(value: str, max_age: int | None) -> None:
    line = FAMILY.set_line("__Host-s", value, max_age)
    assert field_bytes(line) == FAMILY.line_overhead("__Host-s", max_age) + len(value)
    assert field_bytes(line) == len(f"Set-Cookie: {line}\r\n".encode())


REFUSED: dict[str, list[dict[str, Any]]] = {
    "cookie_name": [
        {"name": name}
        for name in ("", "s" * 65, "s;", "s=x", "my session", "s\n", "a,b", "ѕ", 's"')
    ],
    "cookie_path": [
        {"path": path}
        for path in ("", "/;Domain=evil.example", "/\r\nX: y", "/ä", "app", "/" + "a" * 256)
    ],
    "cookie_domain": [
        {"domain": domain} for domain in ("a.example;Secure", "a.example\n", "ä.example")
    ],
    "same_site": [
        {"same_site": "lax"},
        {"same_site": ""},
        {"same_site": "None", "secure": False},
        {"partitioned": True, "secure": False},
    ],
    "__Host-": [
        {"name": "__Host-s", "secure": False},
        {"name": "__Host-s", "path": "/app"},
        {"name": "__Host-s", "domain": "a.example"},
        {"name": "__host-s", "secure": False},
        {"name": "__HOST-s", "path": "/app"},
    ],
    "__Secure-": [{"name": "__Secure-s", "secure": False}, {"name": "__secure-s", "secure": False}],
    "__Http-": [{"name": "__Http-s", "secure": False}, {"name": "__HOST-HTTP-s", "secure": False}],
}


def test_family_that_browsers_reject_is_refused_at_the_start() -> None:
    for setting, families in REFUSED.items():
        for arguments in families:
            with pytest.raises(ConfigurationError, match=setting):
                CookieFamily(**{"name": "s"} | arguments)


ACCEPTED: list[dict[str, Any]] = [
    {"name": "__Host-s"},
    {"name": "__Secure-s", "path": "/app", "domain": "example.org"},
    {"name": "!#$%&'*+.^_`|~-9A"},
    {"name": "s" * 64, "secure": False},
    {"path": "/app/~user/%20"},
    {"same_site": "None", "partitioned": True},
    {"same_site": "Strict", "secure": False},
]


def test_family_that_browsers_keep_is_accepted() -> None:
    for arguments in ACCEPTED:
        family = CookieFamily(**{"name": "s"} | arguments)
        line = family.set_line(family.name, "abc", 60)
        assert line.startswith(f"{family.name}=abc; Max-Age=60; Path=")
        assert found(f"{family.name}=abc", family) == (("abc",), {})


# --- cookies that no browser would keep -----------------------------------------------------------

DROPPED_DOMAINS = [
    *("https://example.org", "//example.org", "example.org/", "example.org/app", "example.org:443"),
    *("*.example.org", "*", "exa mple.org", " example.org", "example.org ", "example.org."),
    *("example..org", "..example.org", ".", "-example.org", "example-.org", "exämple.org"),
    *("localhost", ".org", "org", "intranet", "127.0.0.1", ".127.0.0.1", "[::1]", "::1", "1.2"),
    *("2001:db8::1", "example.org,example.net", "example.org\n", f"{'a' * 64}.org", "user@a.org"),
]


@pytest.mark.parametrize("domain", DROPPED_DOMAINS)
def test_domain_with_which_browsers_drop_a_cookie_is_refused(domain: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^cookie_domain: ") as caught:
        CookieFamily("s", domain=domain)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "domain", ["example.org", ".example.org", "a.b-c.EXAMPLE.org", "xn--exmple-cua.org", "a_b.c.d1"]
)
def test_domain_of_a_site_is_an_attribute_of_its_cookies(domain: str) -> None:
    assert f"; Domain={domain};" in CookieFamily("s", domain=domain).set_line("s", "x", None)


@pytest.mark.parametrize("path", ["app", "/a b", " /", "/ ", "/a?b", "/a#b", "/a;b", "/\n", ""])
def test_path_with_which_browsers_drop_or_move_a_cookie_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^cookie_path: "):
        CookieFamily("s", path=path)


def test_partitioned_cookie_needs_same_site_none() -> None:
    for same_site in ("Lax", "Strict"):
        with pytest.raises(ConfigurationError, match=r"^partitioned: needs same_site 'None'"):
            CookieFamily("s", same_site=same_site, partitioned=True)
    CookieFamily("s", same_site="None", partitioned=True)


@pytest.mark.parametrize("prefix", ["__Host-", "__Secure-", "__Http-", "__Host-Http-"])
def test_prefix_without_what_browsers_ask_of_it_is_refused_in_any_case(prefix: str) -> None:
    for name in (f"{prefix}s", f"{prefix.lower()}s", f"{prefix.upper()}s"):
        CookieFamily(name)
        wrong: list[dict[str, Any]] = [{"secure": False}]
        if "host" in prefix.lower():
            wrong += [{"path": "/app"}, {"domain": "example.org"}]
        for attributes in wrong:
            with pytest.raises(ConfigurationError, match=r"^cookie_name: "):
                CookieFamily(name, **attributes)

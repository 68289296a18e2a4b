"""The model of a browser's jar keeps what browsers keep."""

from __future__ import annotations

from tests.support.jar import Jar, interleavings


def test_jar_keeps_what_browsers_keep() -> None:
    jar = Jar()
    jar.receive(["a=1; Path=/", "a=" + "x" * 4096, "b=" + "x" * 4095, "c=1; Path=/sub"])
    assert jar.header() == "a=1; b=" + "x" * 4095
    assert jar.header("/sub/page") == "c=1; a=1; b=" + "x" * 4095
    jar.receive(["b=; Max-Age=0", "a=; Max-Age=-1; Path=/sub", "a=2; Path=/"])
    assert jar.header() == "a=2"


def test_jar_enforces_the_prefixes() -> None:
    jar = Jar()
    jar.receive(
        [
            "__Host-s=1; Path=/",
            "__Host-s=2; Path=/; Secure; Domain=example.org",
            "__Host-s=3; Path=/sub; Secure",
            "__Secure-s=4; Path=/",
            "__Host-Http-s=5; Path=/; Secure",
            "__Http-s=6; Path=/; Secure",
            "__http-s=7; Path=/; HttpOnly",
        ]
    )
    assert jar.header() == ""
    jar.receive(["__Host-s=5; Path=/; Secure", "__Host-s=; Max-Age=0; Path=/"])
    assert jar.header() == "__Host-s=5"
    jar.receive(["__Host-s=; Max-Age=0; Path=/; Secure"])
    assert jar.header() == ""
    deletion = "__Host-Http-s=; Max-Age=0; Path=/; Secure"
    jar.receive(["__Host-Http-s=8; Path=/; Secure; HttpOnly", deletion])
    assert jar.header() == "__Host-Http-s=8"
    jar.receive([f"{deletion}; HttpOnly"])
    assert jar.header() == ""
    plain = Jar(secure=False)
    plain.receive(["s=1; Path=/; Secure", "s=2; Path=/"])
    assert plain.header() == "s=2"


def test_jar_orders_cookies_as_chromium_or_as_firefox() -> None:
    for last, header in ((True, "b=1; a=2"), (False, "a=2; b=1")):
        jar = Jar(rewritten_last=last)
        jar.receive(["a=1", "b=1", "a=2"])
        assert jar.header() == header
    assert len(list(interleavings("abcd", "efgh"))) == 70

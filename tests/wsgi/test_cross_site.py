"""A request from another site, from which browsers hold back our cookies, replaces no login."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from itsdangerous import TimestampSigner

from sealedstate import ConfigurationError, Key, LegacyReader, Session, SessionWithheld, Settings
from sealedstate_wsgi import SealedSessionMiddleware
from tests.support.client import Answer, ask
from tests.support.jar import Clock, Jar
from tests.support.tables import check_each

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

KEY = Key.generate(os.urandom).export()
OURS, OTHER = "https://app.example.org", "https://pay.example.com"


class Site:
    """An application, and a browser that may be signed in to it as alice."""

    def __init__(self, is_signed_in: bool = True, **settings: Any) -> None:
        self.seen: list[Session] = []
        clock = settings.setdefault("clock", Clock())
        self.middleware = SealedSessionMiddleware(self._serve, Settings(keys=[KEY], **settings))
        self.keeper, self.clock, self.jar = self.middleware.keeper, clock, Jar()
        if is_signed_in:
            session = self.keeper.session()
            session.subject = "alice"
            self.jar.receive(self.keeper.save(session))

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = environ["sealedstate.session"]
        self.seen.append(session)
        self._use(session)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"page"]

    def visit(
        self,
        use: Callable[[Session], object],
        method: str = "POST",
        cookie: str = "",
        **fields: str,
    ) -> Answer:
        """A request with these header fields, `Sec_Fetch_Site=...`."""
        self._use = use
        extras = {f"HTTP_{name.upper()}": value for name, value in fields.items()}
        answer = ask(self.middleware, method=method, cookie=cookie, extras=extras)
        self.jar.receive(answer.set_cookies)
        return answer

    @property
    def subject(self) -> str | None:
        return self.keeper.session(self.jar.header()).subject


def write(session: Session) -> None:
    session["paid"] = True


def sign_in(session: Session) -> None:
    session.subject = "bob"


def then(*uses: Callable[[Session], object]) -> Callable[[Session], object]:
    return lambda session: [use(session) for use in uses]


def test_write_in_a_form_of_another_site_does_not_replace_the_login() -> None:
    def check(use: Callable[[Session], object]) -> None:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            site = Site()
            answer = site.visit(use, method, sec_fetch_site="cross-site")
            assert answer.set_cookies == []
            assert answer.all("Vary") == ["Cookie"]
            assert site.subject == "alice"
            assert site.keeper.counts["not-sent-cross-site"] == 1

    uses: dict[str, Callable[[Session], object]] = {
        "write": write,
        "regenerate": lambda session: session.regenerate(),
        "clear and write": then(Session.clear, write),
    }
    check_each(uses, check)


def test_application_sees_that_its_writes_are_not_sent() -> None:
    site = Site()
    site.visit(write, sec_fetch_site="cross-site")
    (session,) = site.seen
    assert (session.withheld, session.is_new, session.subject) == ("cross-site", True, None)
    assert session["paid"] is True


def sign_out(session: Session) -> None:
    session.subject = None


def test_logout_in_a_form_of_another_site_raises_and_leaves_the_login() -> None:
    """The browser may be signed in, so no page may say that it is signed out."""

    def check(use: Callable[[Session], object]) -> None:
        site = Site()
        with pytest.raises(SessionWithheld, match="cross-site"):
            site.visit(use, sec_fetch_site="cross-site")
        assert site.subject == "alice"

    uses: dict[str, Callable[[Session], object]] = {
        "invalidate": Session.invalidate,
        "no subject": sign_out,
        "sign in and invalidate": then(sign_in, Session.invalidate),
        "sign in and no subject": then(sign_in, sign_out),
    }
    check_each(uses, check)


def test_sign_in_in_a_form_of_another_site_is_sent() -> None:
    def check(use: Callable[[Session], object]) -> None:
        for is_signed_in in (False, True):
            site = Site(is_signed_in)
            site.visit(use, sec_fetch_site="cross-site")
            assert site.subject == "bob"

    uses: dict[str, Callable[[Session], object]] = {
        "sign in": sign_in,
        "write and sign in": then(write, sign_in),
        "regenerate and sign in": then(Session.regenerate, sign_in),
    }
    check_each(uses, check)


def test_request_whose_cookies_are_not_held_back_gets_its_session() -> None:
    for method, fields in (
        # Browsers send Lax cookies with a link that is followed, so this visitor has none.
        ("GET", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}),
        ("HEAD", {"sec_fetch_site": "cross-site"}),
        ("POST", {"sec_fetch_site": "same-origin", "origin": OTHER}),
        ("POST", {"sec_fetch_site": "same-site"}),
        ("POST", {"sec_fetch_site": "none"}),
        ("POST", {"origin": OTHER}),
        ("POST", {}),
    ):
        site = Site(False)
        assert len(site.visit(write, method, **fields).set_cookies) == 1
        assert site.seen[0].withheld is None
    # A cookie that came in spite of it is used.
    site = Site()
    site.visit(write, cookie=site.jar.header(), sec_fetch_site="cross-site")
    session = site.keeper.session(site.jar.header())
    assert (session.subject, session["paid"]) == ("alice", True)


def test_same_site_setting_says_which_requests_come_without_cookies() -> None:
    for same_site, method, is_sent in (
        ("Strict", "GET", False),
        ("Strict", "POST", False),
        ("Lax", "GET", True),
        ("None", "GET", True),
        ("None", "POST", True),
    ):
        site = Site(False, same_site=same_site)
        answer = site.visit(write, method, sec_fetch_site="cross-site")
        assert bool(answer.set_cookies) is is_sent


def test_origin_decides_in_browsers_without_sec_fetch_site_if_origins_are_set() -> None:
    for origin, is_sent in ((OURS, True), (OTHER, False), ("null", False), (None, True)):
        site = Site(False, origins=[OURS])
        fields = {} if origin is None else {"origin": origin}
        assert bool(site.visit(write, **fields).set_cookies) is is_sent
        assert bool(Site(False).visit(write, **fields).set_cookies)
        assert bool(site.visit(write, "GET", **fields).set_cookies)
    site = Site(False, origins=[OURS])
    assert site.visit(write, sec_fetch_site="same-site", origin=OTHER).set_cookies
    assert not site.visit(write, sec_fetch_site="cross-site", origin=OURS).set_cookies


def test_origin_that_no_browser_sends_stops_the_start() -> None:
    for origin in ("https://app.example.org/", "app.example.org", "*", "HTTPS://app.example.org"):
        with pytest.raises(ConfigurationError, match="origins"):
            Settings(keys=[KEY], origins=[origin])
    with pytest.raises(ConfigurationError, match="origins"):
        Settings(keys=[KEY], origins=OURS)
    for origin in (OURS, "http://localhost:8000", "http://127.0.0.1", "http://[::1]:8000"):
        assert Settings(keys=[KEY], origins=[origin]).origins == [origin]
    environ = {"SEALEDSTATE_KEYS": KEY, "SEALEDSTATE_ORIGINS": f"{OURS} {OTHER}"}
    assert Settings.from_env(environ).origins == [OURS, OTHER]


def test_legacy_session_that_comes_without_ours_is_not_taken_over() -> None:
    clock = Clock()
    until = datetime.fromtimestamp(clock.now + 86400, UTC)
    site = Site(legacy=LegacyReader("starlette", "secret", until), clock=clock)

    class SignerNow(TimestampSigner):
        def get_timestamp(self) -> int:
            return int(clock.now)

    old = f"session={SignerNow('secret').sign(b'eyJhIjogMX0=').decode()}"
    assert site.visit(len, "POST", old, sec_fetch_site="cross-site").set_cookies == []
    assert site.subject == "alice"
    assert len(site.visit(len, "POST", old).set_cookies) > 0

"""A model of a browser: its cookie jar, and its visits to a keeper.

RFC 6265bis as Chromium and Firefox were measured to keep it: sizes, prefixes, overwriting and
deletion, for one host; without eviction and domains.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sealedstate import Keeper, Key, Session, Settings
from sealedstate._cookies.header import field_bytes
from sealedstate._request.load import LoadedSession
from sealedstate._wire.record import Place
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.session import Part
from sealedstate.testing import ManualClock

MAX_PAIR_BYTES = 4096
MAX_ATTRIBUTE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Cookie:
    """One kept cookie. `domain` is None for a host-only one."""

    name: str
    value: str
    path: str
    domain: str | None
    secure: bool
    partitioned: bool

    @property
    def place(self) -> tuple[str, str, str | None, bool]:
        """What a Set-Cookie line must repeat to overwrite or to delete it."""
        return (self.name, self.path, self.domain, self.partitioned)

    @property
    def pair(self) -> str:
        return f"{self.name}={self.value}"


class Jar:
    """The cookies of one host, over https unless `secure` is False.

    `rewritten_last`: whether an overwritten cookie moves to the end, as in Chromium, or keeps its
    place, as in Firefox.
    """

    def __init__(self, secure: bool = True, rewritten_last: bool = True) -> None:
        self._secure = secure
        self._rewritten_last = rewritten_last
        self._cookies: dict[tuple[str, str, str | None, bool], Cookie] = {}

    def header(self, path: str = "/") -> str:
        """The Cookie header of a request: longer paths first, then the older."""
        sent = [
            cookie
            for cookie in self._cookies.values()
            if _path_matches(path, cookie.path) and (self._secure or not cookie.secure)
        ]
        sent.sort(key=lambda cookie: -len(cookie.path))
        return "; ".join(cookie.pair for cookie in sent)

    def receive(self, lines: Iterable[str]) -> None:
        """Take the Set-Cookie field values of a response, in order."""
        for line in lines:
            self._receive_one(line)

    def ours(self, name: str = "__Host-Http-s") -> dict[str, str]:
        """The values kept under `name` and under `name` with a number."""
        found = {cookie.name: cookie.value for cookie in self._cookies.values()}
        return {
            key: value
            for key, value in found.items()
            if key == name or (key.startswith(f"{name}-") and key[len(name) + 1 :].isdigit())
        }

    def copy(self) -> Jar:
        """Another jar with the same cookies: a second browser, or a thief."""
        twin = Jar(self._secure, self._rewritten_last)
        twin._cookies = dict(self._cookies)
        return twin

    def _receive_one(self, line: str) -> None:
        if any((letter < " " and letter != "\t") or letter == "\x7f" for letter in line):
            return
        pair, *attributes = line.split(";")
        name, equals, value = pair.partition("=")
        name, value = (name.strip(" \t"), value.strip(" \t")) if equals else ("", name.strip(" \t"))
        if len(name) + len(value) > MAX_PAIR_BYTES:
            return  # ignored whole: an older value of this name stays
        known = dict(_attribute(text) for text in attributes)
        cookie = Cookie(
            name,
            value,
            known["path"] if known.get("path", "").startswith("/") else "/",
            known.get("domain") or None,
            "secure" in known,
            "partitioned" in known,
        )
        if not self._acceptable(cookie, known):
            return
        if _deletes(known.get("max-age", "")):
            self._cookies.pop(cookie.place, None)
            return
        if self._rewritten_last:
            self._cookies.pop(cookie.place, None)
        self._cookies[cookie.place] = cookie

    def _acceptable(self, cookie: Cookie, attributes: dict[str, str]) -> bool:
        prefix = cookie.name.lower()
        if cookie.secure and not self._secure:
            return False
        if prefix.startswith(("__secure-", "__host-", "__http-")) and not cookie.secure:
            return False
        if prefix.startswith(("__host-http-", "__http-")) and "httponly" not in attributes:
            return False
        if prefix.startswith("__host-") and (attributes.get("path") != "/" or cookie.domain):
            return False
        if (cookie.partitioned or attributes.get("samesite", "").lower() == "none") and (
            not cookie.secure
        ):
            return False
        kept = self._cookies.get(cookie.place)
        # Plain http leaves secure cookies alone.
        return self._secure or kept is None or not kept.secure


def _attribute(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    name, value = name.strip(" \t").lower(), value.strip(" \t")
    return ("", "") if len(value) > MAX_ATTRIBUTE_BYTES else (name, value)


def _deletes(max_age: str) -> bool:
    digits = max_age.removeprefix("-")
    return digits.isdigit() and (max_age.startswith("-") or int(digits) == 0)


def _path_matches(requested: str, path: str) -> bool:
    return requested == path or (
        requested.startswith(path) and (path.endswith("/") or requested[len(path)] == "/")
    )


def interleavings(first: Sequence[str], second: Sequence[str]) -> Iterator[list[str]]:
    """Every order in which two responses' lines can arrive, each response's own order kept."""
    size = len(first) + len(second)
    for places in itertools.combinations(range(size), len(first)):
        ours, theirs = iter(first), iter(second)
        yield [next(ours) if place in places else next(theirs) for place in range(size)]


def shuffled(chance: random.Random, *responses: Sequence[str]) -> list[str]:
    """One random order in which the lines of several responses can arrive."""
    turns = [number for number, lines in enumerate(responses) for _ in lines]
    chance.shuffle(turns)
    left = [iter(lines) for lines in responses]
    return [next(left[turn]) for turn in turns]


Clock = ManualClock
RING = Keyring((Key.generate(os.urandom),), lookup=os.urandom(32))


def keeper(clock: Clock, **given: Any) -> Keeper:
    """A keeper at `clock`, with a key of this run unless `given` names another setting.

    A store in memory will do, although it forgets logouts.
    """
    given.setdefault("keys", StaticKeys(RING))
    given.setdefault("accept_weak_store_for", ["revocation"])
    return Keeper(Settings(clock=clock, **given))


class Browser:
    """A jar that visits a keeper."""

    def __init__(self, keeper: Keeper, jar: Jar | None = None) -> None:
        self.keeper = keeper
        self.jar = Jar() if jar is None else jar

    def session(self) -> Session:
        """A request's session; nothing is sent back yet."""
        return self.keeper.session(self.jar.header())

    def visit(
        self, change: Callable[[Session], object] = len, others: Sequence[str] = ()
    ) -> list[str]:
        """A request that does `change`, and its response with `others` set by the application.

        The Set-Cookie values of ours.
        """
        session = self.session()
        change(session)
        lines = self.keeper.save(session, sum(field_bytes(line) for line in others))
        session.mark_headers_sent()
        self.jar.receive([*others, *lines])
        return lines

    def read(self) -> dict[str, object]:
        """What a request would see."""
        return dict(self.session())


def loaded_of(session: Session) -> LoadedSession:
    """What the request of a session brought."""
    loaded = session.load()
    assert isinstance(loaded, LoadedSession)
    return loaded


def places_of(session: Session) -> dict[str, Place | None]:
    """Where each part is, in order."""
    assert session.load()
    return {
        name: part.place if isinstance(part, Part) else Place.CORE
        for name, part in session.changes().parts.items()
    }

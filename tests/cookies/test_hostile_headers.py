"""No Cookie header breaks a request, opens a session, or changes a cookie.

The headers, random and crafted, up to 256 kB, are given to `Keeper.session`; most of them in the
soak. Seeds are fixed: a failing shard fails again.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import pytest

from sealedstate import Keeper, Key, LegacyReader, Settings
from sealedstate._cookies.codec import CookieCodec
from sealedstate._cookies.header import Candidates
from sealedstate._wire.encoding import from_text, to_text
from sealedstate._wire.record import OverflowSet, Record
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Clock, Jar
from tests.support.shards import shards

NOW = 1_800_000_000
CHANCE = random.Random("hostile headers")
KEY = Key.generate(CHANCE.randbytes)
NAME = "__Host-Http-s"
SHARDS, HEADERS = 20, 5_000


def keeper(**given: Any) -> Keeper:
    """A keeper with all that a header could reach: overflow, a store, a legacy reader."""
    clock = Clock(NOW)
    legacy = LegacyReader("flask", "an old secret", datetime.fromtimestamp(NOW + 86400, UTC))
    settings: dict[str, Any] = {
        "keys": [KEY.export()],
        "profile": "roomy",
        "storage": ScriptedStorage(clock),
        "accept_weak_store_for": ["revocation"],
        "legacy": legacy,
        "clock": clock,
        "random": CHANCE.randbytes,
    }
    return Keeper(Settings(**settings | given))


def jar_of(keeper: Keeper, **parts: object) -> Jar:
    """A browser with a session."""
    jar, session = Jar(), keeper.session()
    session.subject = "alice"
    session.update(parts)
    jar.receive(keeper.save(session))
    return jar


SMALL = jar_of(keeper(), n=1).ours()[NAME]
LARGE = jar_of(keeper(), n=1, big=CHANCE.randbytes(3500), bigger=CHANCE.randbytes(3600)).ours()


class Headers:
    """Makes hostile headers without an unaltered token."""

    def __init__(self, seed: str) -> None:
        self.chance = random.Random(seed)
        self.kinds = (self.noise, self.punctuation, *[self.pairs] * 3, *[self.tokens] * 2)

    def header(self) -> str:
        return self.chance.choice(self.kinds)()

    def size(self) -> int:
        """Mostly small, sometimes up to 64 kB and more."""
        return int(2 ** self.chance.uniform(0, 11 if self.chance.random() < 0.97 else 16.1))

    def noise(self) -> str:
        return self.chance.randbytes(self.size()).decode("latin-1")

    def punctuation(self) -> str:
        letters = self.chance.choice(('";=\\, \t', ";", "=", '"', "\\", "; ", "\x00\r\n;=", "%=;"))
        text = "".join(self.chance.choices(letters, k=min(self.size(), 3000)))
        return (text * (1 + self.size() // (len(text) + 1)))[: self.size()] + self.ending()

    def ending(self) -> str:
        return self.chance.choice(("", f";{NAME}", f";{NAME}=", f";{NAME}=;{NAME}-1="))

    def pairs(self) -> str:
        count = min(1 + self.size() // 30, 400)
        return self.chance.choice(("; ", ";", ", ", " ; ")).join(
            f"{self.name()}{self.chance.choice(('=', '=', '=', ' = ', '', '=='))}{self.value()}"
            for _ in range(count)
        )

    def name(self) -> str:
        blank = self.chance.choice(("", "", "\xa0", " ", "\t", "\x85", "\u2003", "\u3000", "\x00"))
        return blank + self.chance.choice(NAMES)

    def value(self) -> str:
        kind = self.chance.randrange(6)
        if kind == 0:
            return self.chance.randbytes(self.chance.randrange(20)).decode("latin-1")
        if kind == 1:
            return self.chance.choice(VALUES)
        if kind == 2:
            return to_text(self.chance.randbytes(self.chance.randrange(120)))
        if kind == 3:
            return to_text(b"\x01" + KEY.kid + self.chance.randbytes(60))
        return self.alter(self.chance.choice((SMALL, LARGE[NAME])))

    def tokens(self) -> str:
        """Altered tokens under all of our names."""
        names = [NAME, *(f"{NAME}-{number}" for number in range(1, 8))]
        return "; ".join(
            f"{name}={self.alter(self.chance.choice((SMALL, *LARGE.values())))}"
            for name in self.chance.choices(names, k=self.chance.randrange(1, 9))
        )

    def junk(self, count: int) -> list[str]:
        """Headers without our name, because 16 candidates before ours would hide it."""
        return [self.header().replace(NAME, "__Host-t")[:9000] for _ in range(count)]

    def alter(self, text: str) -> str:
        while True:
            at = self.chance.randrange(len(text))
            letter = self.chance.choice("AQgw._ ,\xe4")
            made = self.chance.choice(
                (
                    *(text[:at], text[at:], text + text[:at], f'"{text}"', f"{text}="),
                    *(text[:at] + letter + text[at + 1 :], text[:at] + text[at + 1 :]),
                    *(text.swapcase(), text.replace(".", "%2E") + "%"),
                )
            )
            if made not in (SMALL, *LARGE.values()):
                return made


NAMES = [
    *(NAME, NAME, NAME, "__host-http-s", "__Host-", "__Host-Http-s ", "%5F%5FHost-s", f'"{NAME}"'),
    *(f"{NAME}-{number}" for number in ("0", "1", "2", "7", "8", "01", "10", "-1", "١", "１", "²")),
    *(f"{NAME}[]", "", "session", "a", "ü", "{}"),
]
VALUES = [
    *("", "=", '"', '"a', "a b,c", f"{NAME}=x", "eyJhIjoxfQ.aaaaaa.bbbb", ".", "..", "%00", "🍪"),
]


@pytest.mark.parametrize("shard", shards(SHARDS, usual=2))
def test_no_hostile_header_breaks_opens_or_changes_a_cookie(shard: int) -> None:
    door, headers = keeper(), Headers(f"shard {shard}")
    for _ in range(HEADERS):
        session = door.session(headers.header())
        assert session.is_new
        assert session.subject is None
        assert dict(session) == {}
        assert door.save(session) == []
    counts = door.counts
    assert counts["opened"] == counts["adopted"] == counts["saved"] == 0
    # Enough of them reached the tokens and the legacy reader.
    assert counts["refused-malformed"] > HEADERS // 100
    assert counts["refused-tag"] > HEADERS // 100
    assert counts["legacy-refused"] > HEADERS // 200


@pytest.mark.parametrize("shard", shards(4))
def test_good_cookies_among_junk_are_found(shard: int) -> None:
    door, headers = keeper(), Headers(f"junk {shard}")
    for _ in range(1000):
        before, behind = headers.junk(2)
        session = door.session(f"{before};{NAME}={SMALL};{behind}")
        assert (session["n"], session.subject, session.is_new) == (1, "alice", False)
        assert door.save(session) == []
    assert len(LARGE) > 2
    pairs = [f"{name}={value}" for name, value in LARGE.items()]
    for _ in range(200):
        junk = headers.junk(len(pairs) + 1)
        headers.chance.shuffle(pairs)
        mixed = [text for both in zip(junk, pairs, strict=False) for text in both] + junk[-1:]
        session = door.session(";".join(mixed))
        assert set(session.keys()) == {"n", "big", "bigger"}
        assert session["n"] == 1
        assert door.save(session) == []


# --- crafted --------------------------------------------------------------------------------------


def test_junk_counts_nothing_unless_it_is_read_and_never_reaches_the_store() -> None:
    clock = Clock(NOW)
    store = ScriptedStorage(clock)
    door, headers = keeper(storage=store, clock=clock), Headers("store")
    for _ in range(1000):
        assert door.save(door.session(headers.header())) == []
    assert door.save(door.session(f"{NAME}={SMALL}")) == []
    at_start = door.counts
    assert at_start.keys() == {"store-call-answered"}
    asked = store.count["read"]
    for _ in range(2000):
        assert door.session(headers.header()).is_new
    assert store.count["read"] == asked
    assert not door.session(f"{NAME}={SMALL}").is_new
    assert store.count["read"] > 0


# --- several Cookie lines that a server joined with a comma ---------------------------------------

OTHER = jar_of(keeper(), n=2).ours()[NAME]


def test_session_is_found_in_joined_lines_whatever_joins_them() -> None:
    for comma in (",", ", ", "; ", ";"):
        for lines in permutations((f"{NAME}={SMALL}", "a=b", "theme=dark; lang=de")):
            session = keeper().session(comma.join(lines))
            assert (session.subject, session["n"]) == ("alice", 1)
    pairs = [f"{name}={value}" for name, value in LARGE.items()]
    for comma in (",", ", "):
        session = keeper().session(comma.join(["a=b", *pairs, "c=d"]))
        assert set(session.keys()) == {"n", "big", "bigger"}


def test_foreign_value_with_a_comma_never_competes_with_a_good_cookie() -> None:
    ours = f"{NAME}={SMALL}"
    posing = f"x=1,{NAME}={OTHER}"
    crowd = "x=1" + "".join(f",{NAME}={number}" for number in range(17))
    for foreign in (posing, crowd, f"{crowd},{NAME}={OTHER}"):
        for header in (f"{foreign}; {ours}", f"{ours}; {foreign}"):
            session = keeper().session(header)
            assert (session.subject, session["n"]) == ("alice", 1)
    # Without a cookie of ours it cannot be distinguished from two lines.
    assert keeper().session(posing)["n"] == 2
    assert keeper(joined_cookie_lines=False).session(posing).is_new


def test_foreign_value_with_a_comma_never_replaces_a_withheld_cookie() -> None:
    stranger = keeper(keys=[Key.generate(CHANCE.randbytes).export()])
    unknown = jar_of(stranger, n=3).header()
    door = keeper()
    session = door.session(f"x=1,{NAME}={OTHER}; {unknown}")
    assert session.is_new
    assert session.withheld == "kid-unknown"
    session["n"] = 4
    assert door.save(session) == []


def test_cookie_after_a_comma_is_used_if_no_other_opens() -> None:
    # Crumbs of one request, joined: a dead cookie of another path is first.
    session = keeper().session(f"{NAME}=dead,a=b,{NAME}={SMALL}")
    assert (session.subject, session["n"]) == ("alice", 1)
    crowd = "x=1" + "".join(f",{NAME}={number}" for number in range(17))
    assert keeper().session(crowd).withheld == "crowded"


# --- headers of any length ------------------------------------------------------------------------


def test_good_cookie_in_a_header_of_any_length_is_used_and_kept() -> None:
    for size in (1 << 16, 1 << 18, 1 << 22):
        filler = f"x={'y' * size}"
        for header in (f"{NAME}={SMALL}; {filler}", f"{filler}; {NAME}={SMALL}"):
            door = keeper()
            session = door.session(header)
            assert (session.subject, session["n"]) == ("alice", 1)
            session["n"] = 2
            jar = Jar()
            jar.receive(door.save(session))
            session = door.session(jar.header())
            assert (session.subject, session["n"]) == ("alice", 2)


# --- chunks ---------------------------------------------------------------------------------------


def test_chunks_are_found_behind_three_decoys_and_not_behind_four() -> None:
    door, core = keeper(), f"{NAME}={LARGE[NAME]}"
    right = [f"{name}={value}" for name, value in LARGE.items() if name != NAME]
    assert len(right) == 3
    decoys = [
        [pair[:-1] + letter for letter in "ABCDE" if letter != pair[-1]][:4] for pair in right
    ]
    for number in range(4):
        before = [decoy for each in decoys for decoy in each[:number]]
        session = door.session("; ".join([core, *before, *right]))
        assert set(session.keys()) == {"n", "big", "bigger"}
    session = door.session("; ".join([core, *decoys[0], *right]))
    assert set(session.keys()) == {"n"}
    assert session.subject == "alice"


def test_decoys_of_chunks_are_joined_at_most_64_times(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[str] = []

    def count(text: str) -> bytes:
        joined.append(text)
        return from_text(text)

    monkeypatch.setattr("sealedstate._cookies.codec.from_text", count)
    codec = CookieCodec(NAME, "default", StaticKeys(Keyring((KEY,))), CHANCE.randbytes)
    overflow = OverflowSet(bytes(8), 7, bytes(16), ("big",))
    record = Record(bytes(16), "alice", NOW, NOW + 60, 1, {}, overflow)
    columns = {number: tuple("ABCD") for number in range(1, 8)}
    assert codec.open_overflow(record, Candidates(overflow=columns), NOW) is None
    assert len(joined) == 64

"""Random walks of the size of a session from nothing to 20 kB, through the jar of a browser.

After every response the browser carries what the profile promises, and the session holds what the
application put into it.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from sealedstate import PROFILES, Profile, Session
from sealedstate._cookies.header import MAX_LINE_BYTES, field_bytes
from sealedstate._stored.parts import CONTEXT
from sealedstate.storage import MemoryStorage
from tests.support.jar import Browser, Clock, Jar, keeper
from tests.support.shop import record_of
from tests.support.stored import PartRow

WALKS = [
    (0, 150),
    (1, 150),
    pytest.param(2, 150, marks=pytest.mark.slow),
    pytest.param(3, 150, marks=pytest.mark.slow),
    *(pytest.param(shard, 550, marks=pytest.mark.soak) for shard in range(4)),
]
NAMES = ["csrf", "vault", "cart", "prefs", "logins", "flash", "a" * 100, "é", "n1", "n2", "n3"]
# The room that a login of ordinary size keeps, whatever else there is.
ORDINARY = 1100
# Used without a store: everything must fit into its cookies.
WIDE = Profile("wide", 8, 3800, 30_000, 40_000, 36_000)
DAY = 86400


class Walk:
    """A browser, an application that changes its session at random, and a model of the session.

    The browser's server refuses a Cookie header over the profile's, as real ones do, so other
    applications' cookies come only where there is room.
    """

    def __init__(self, profile: Profile, shard: int) -> None:
        self.chance = random.Random(f"{profile.name} {shard}")
        self.clock = Clock()
        self.profile = profile
        self.stored = profile is not WIDE
        self.most = 20_000 if self.stored else 14_000
        self.store = MemoryStorage(self.clock)
        policies = {"csrf": "cookie", "vault": "server"} if self.stored else {"csrf": "cookie"}
        self.keeper = keeper(
            self.clock,
            profile=profile,
            storage=self.store if self.stored else None,
            part_policies=policies,
            spill_order=["prefs", "cart"],
            idle_lifetime=400 * DAY,
            absolute_lifetime=400 * DAY,
            refresh_after=DAY,
            persistent=shard % 2 == 1,
        )
        self.browser = Browser(self.keeper, Jar(rewritten_last=shard % 4 < 2))
        self.model: dict[str, Any] = {}
        self.subject: str | None = None
        self.size = 0
        self.foreign: dict[str, str] = {}
        self.largest = 0

    def step(self) -> None:
        self.clock.forward(self.chance.choice([0, 1, 60, DAY]))
        self.come_and_go()
        others = self.others()
        lines = self.browser.visit(self.change, others)
        self.assert_carried([*others, *lines])
        self.assert_nothing_lost()
        self.assert_no_orphans()

    # --- what happens -------------------------------------------------------------------------

    def come_and_go(self) -> None:
        """Other applications of this host set and delete cookies."""
        for name in list(self.foreign):
            if self.chance.random() < 0.3:
                self.browser.jar.receive([f"{name}=; Max-Age=0; Path=/"])
                del self.foreign[name]
        for _ in range(self.chance.randrange(4)):
            name = f"other{self.chance.randrange(12)}"
            value = "v" * self.chance.choice([5, 50, 500, 1500])
            pair = len(name) + len(value) + 3
            foreign = sum(len(known) + len(of) + 3 for known, of in self.foreign.items())
            room = self.profile.header_bytes - len(self.browser.jar.header())
            if pair <= room and foreign + pair <= self.profile.header_bytes - ORDINARY:
                self.foreign[name] = value
                self.browser.jar.receive([f"{name}={value}; Path=/"])

    def others(self) -> list[str]:
        """Cookies that this application sets again with the same response."""
        room = self.profile.response_bytes - ORDINARY
        likely = self.chance.choice([0, 0.3, 1])
        lines = []
        for name, value in self.foreign.items():
            line = f"{name}={value}; Path=/"
            if self.chance.random() < likely and field_bytes(line) <= room:
                room -= field_bytes(line)
                lines.append(line)
        return lines

    def change(self, session: Session) -> None:
        if self.chance.random() < 0.3:
            assert dict(session) == self.model  # recalls all of it
        if self.chance.random() < 0.1:
            session.regenerate()
        if self.chance.random() < 0.1:
            self.sign_in(session)
        if self.chance.random() < 0.1:
            session.clear()
            self.model.clear()
        if self.chance.random() < 0.8:
            self.resize(session)
        for name in self.chance.sample(NAMES, 2):
            if isinstance(self.model.get(name), list):
                self.grow(session, name)

    def sign_in(self, session: Session) -> None:
        was, self.subject = self.subject, self.chance.choice(["ann", "bob", None])
        session.subject = self.subject
        if was not in (None, self.subject):
            self.model.clear()  # no subject inherits a cart

    def resize(self, session: Session) -> None:
        """Towards another size, some parts away and some new or overwritten."""
        self.size = min(self.most, max(0, self.size + self.chance.randrange(-8000, 8000)))
        while self.taken() > self.size:
            name = self.chance.choice(list(self.model))
            del session[name], self.model[name]
        names = [
            name
            for name in NAMES
            if name != "csrf" and (name not in self.model or self.chance.random() < 0.1)
        ]
        for name in self.chance.sample(names, self.chance.randrange(len(names) + 1)):
            if self.size - self.taken() > 100:
                self.assign(
                    session, name, self.value(self.chance.randrange(self.size - self.taken()))
                )
        if self.chance.random() < 0.5:
            self.assign(session, "csrf", self.chance.randbytes(32))

    def grow(self, session: Session, name: str) -> None:
        found = session[name]
        assert isinstance(found, list)
        if self.taken() < self.most:
            found.append("grown" * self.chance.randrange(20))
            self.model[name].append(found[-1])

    def assign(self, session: Session, name: str, value: object) -> None:
        session[name] = value
        self.model[name] = copy.deepcopy(value)

    def value(self, size: int) -> object:
        text = "x" * size
        return self.chance.choice(
            [text, text.encode(), [text[size // 2 :], {"half": text[: size // 2]}], (size, text)]
        )

    def taken(self) -> int:
        return sum(len(name) + len(repr(value)) for name, value in self.model.items())

    # --- what must hold -----------------------------------------------------------------------

    def assert_carried(self, lines: list[str]) -> None:
        profile, header = self.profile, self.browser.jar.header()
        ours = [len(name) + len(value) for name, value in self.browser.jar.ours().items()]
        assert len(header) <= profile.header_bytes
        assert len(ours) <= profile.cookies
        assert max(ours, default=0) <= profile.cookie_bytes
        assert sum(ours) <= profile.total_bytes
        assert sum(field_bytes(line) for line in lines) <= profile.response_bytes
        assert max(map(field_bytes, lines), default=0) <= MAX_LINE_BYTES + len("Set-Cookie: \r\n")
        self.largest = max(self.largest, sum(ours))

    def assert_nothing_lost(self) -> None:
        session = self.browser.session()
        assert dict(session) == self.model
        assert session.subject == self.subject
        assert self.keeper.counts["part-missing"] == 0

    def assert_no_orphans(self) -> None:
        if not self.browser.jar.ours():
            assert not self.model
            assert self.subject is None
            return
        record = record_of(self.browser)
        chunks = 0 if record.overflow is None else record.overflow.count
        assert set(self.browser.jar.ours()) == {
            "__Host-Http-s",
            *(f"__Host-Http-s-{number}" for number in range(1, chunks + 1)),
        }
        rows = {PartRow(record.id, name).key for name in [*record.spilled, *record.orphaned_rows]}
        assert rows <= set(self.store.keys(CONTEXT))


@pytest.mark.parametrize(("shard", "steps"), WALKS)
@pytest.mark.parametrize("profile", [*PROFILES.values(), WIDE], ids=lambda profile: profile.name)
def test_session_of_any_size_stays_within_its_budget_and_loses_nothing(
    profile: Profile, shard: int, steps: int
) -> None:
    walk = Walk(profile, shard)
    for _ in range(steps):
        walk.step()
    # The walk came near the limits.
    assert walk.largest > 0.8 * min(profile.total_bytes, 4 / 3 * walk.most)
    assert walk.keeper.counts["spilled"] > steps / 6 or not walk.stored

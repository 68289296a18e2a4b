"""Two tabs and more: no order of their responses leads to a mix or a lost login.

Responses race to one jar. The browser then carries the core of one of them, with its overflow
whole, or with the parts in overflow absent.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import cbor2
import pytest

from sealedstate import Keeper, Session
from sealedstate._stored.parts import CONTEXT as PARTS
from sealedstate.errors import RowUnreadable
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock, Jar, interleavings, keeper, shuffled
from tests.support.shop import node, record_of, setting, signed_in, touch

Change = Callable[[Session], object]
Seen = dict[str, object]

CORE, LARGE = 300, 2500


def small(tab: str) -> Seen:
    return {"who": tab, "note": tab * CORE}


def large(tab: str, parts: int = 3) -> Seen:
    return small(tab) | {
        f"part{number}": f"{tab}{number}" * (LARGE // 2) for number in range(parts)
    }


def become(values: Seen) -> Change:
    """A change that makes a session hold exactly `values`."""

    def change(session: Session) -> None:
        for name in [name for name in session if name not in values]:
            del session[name]
        session.update(values)

    return change


def only_core(session: Session) -> None:
    """A change that leaves the overflow as it is."""
    session["who"] = session["note"] = "X"


def regenerated(session: Session) -> None:
    session.regenerate()
    session.update(large("R", 2))


# What the session is before, and what two tabs do to it at once.
BEFORE = {"nothing": small("0"), "overflow": large("0", 2), "much": large("0", 3)}
CHANGES: dict[str, Change] = {
    "grows": become(large("A", 3)),
    "grows, other values": become(large("B", 3)),
    "grows a little": become(large("C", 1)),
    "shrinks": become(small("D")),
    "only its core": only_core,
    "new id": regenerated,
}


class Race:
    """A browser with a signed-in session, whose tabs all start from the same cookies."""

    def __init__(self, before: Seen, rewritten_last: bool = True) -> None:
        self.clock = Clock()
        self.keeper: Keeper = keeper(self.clock, profile="roomy")
        self.browser = Browser(self.keeper, Jar(rewritten_last=rewritten_last))
        self.browser.visit(lambda session: setattr(session, "subject", "ann"))
        self.browser.visit(become(before))
        self.outcomes = [self.browser.read()]

    def response(self, change: Change) -> list[str]:
        """The lines of a tab's response, which has not arrived yet; its outcome alone is kept."""
        session = self.browser.session()
        change(session)
        lines = self.keeper.save(session)
        alone = Browser(self.keeper, self.browser.jar.copy())
        alone.jar.receive(lines)
        self.outcomes.append(alone.read())
        return lines

    def arrive(self, lines: Sequence[str]) -> Browser:
        """A browser in which these lines arrived in this order."""
        browser = Browser(self.keeper, self.browser.jar.copy())
        browser.jar.receive(lines)
        return browser

    def assert_one_of(self, browser: Browser) -> str:
        """The session is one of the outcomes, "whole", or without its overflow, "torn"."""
        missing = self.keeper.counts["part-missing"]
        session = browser.session()
        seen = dict(session)
        assert session.subject == "ann"
        reported = self.keeper.counts["part-missing"] - missing
        if seen in self.outcomes:
            assert reported == 0
            return "whole"
        (meant,) = (outcome for outcome in self.outcomes if outcome["who"] == seen["who"])
        absent = set(meant) - set(seen)
        assert {name: meant[name] for name in seen} == seen
        assert absent == {name for name in meant if name.startswith("part")} & absent != set()
        assert reported == len(absent)
        return "torn"

    def assert_mended_by_the_next_write(self, browser: Browser) -> None:
        expected = browser.read() | {"next": True}
        browser.visit(lambda session: session.update(next=True))
        assert browser.read() == expected
        record = record_of(browser)
        assert record.subject == "ann"
        chunks = 0 if record.overflow is None else record.overflow.count
        numbered = {f"__Host-Http-s-{number}" for number in range(1, chunks + 1)}
        assert set(browser.jar.ours()) == {"__Host-Http-s"} | numbered


@pytest.mark.parametrize(
    ("before", "rewritten_last"),
    [
        ("nothing", True),
        ("nothing", False),
        *(
            pytest.param(before, rewritten_last, marks=pytest.mark.slow)
            for before in ("overflow", "much")
            for rewritten_last in (True, False)
        ),
    ],
)
def test_two_responses_in_any_order_leave_one_of_them_or_its_core(
    before: str, rewritten_last: bool
) -> None:
    outcomes = []
    for first, second in itertools.combinations(CHANGES, 2):
        race = Race(BEFORE[before], rewritten_last)
        one, other = race.response(CHANGES[first]), race.response(CHANGES[second])
        assert one
        assert other
        # Many orders lead to the same cookies.
        arrived: dict[str, str] = {}
        for lines in interleavings(one, other):
            browser = race.arrive(lines)
            carried = browser.jar.header()
            if carried not in arrived:
                arrived[carried] = race.assert_one_of(browser)
                race.assert_mended_by_the_next_write(browser)
            outcomes.append(arrived[carried])
    assert set(outcomes) == {"whole", "torn"}
    assert len(outcomes) > 100


@pytest.mark.parametrize("before", BEFORE)
def test_response_that_breaks_off_leaves_the_old_session_or_the_new_or_its_core(
    before: str,
) -> None:
    for change in CHANGES.values():
        race = Race(BEFORE[before])
        lines = race.response(change)
        for arrived in range(len(lines) + 1):
            browser = race.arrive(lines[:arrived])
            race.assert_one_of(browser)
            race.assert_mended_by_the_next_write(browser)


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(4))
def test_three_responses_in_sampled_orders_leave_one_of_them_or_its_core(shard: int) -> None:
    chance = random.Random(shard)
    for trio in chance.sample(list(itertools.combinations(CHANGES, 3)), 6):
        race = Race(chance.choice(list(BEFORE.values())), chance.random() < 0.5)
        responses = [race.response(CHANGES[name]) for name in trio]
        for _ in range(60):
            cut = [lines[: chance.randrange(len(lines) + 1)] for lines in responses]
            browser = race.arrive(shuffled(chance, *chance.choice([responses, cut])))
            race.assert_one_of(browser)
            race.assert_mended_by_the_next_write(browser)


@pytest.mark.slow
def test_subset_of_the_cookies_of_two_generations_is_never_a_mix() -> None:
    race = Race(large("0", 3))
    race.response(CHANGES["grows"])
    twin = race.arrive(race.response(CHANGES["grows, other values"]))
    old, new = race.browser.jar.ours(), twin.jar.ours()
    cookies = [f"{name}={value}" for jar in (old, new) for name, value in jar.items()]
    assert len(cookies) == 8
    assert old.keys() == new.keys()
    newest = f"__Host-Http-s={new['__Host-Http-s']}"
    chance = random.Random(1)
    for _ in range(3000):
        chosen = chance.sample(cookies, chance.randrange(9))
        session = race.keeper.session("; ".join(chosen))
        seen = dict(session)
        cores = [cookie for cookie in chosen if cookie.startswith("__Host-Http-s=")]
        assert session.subject == ("ann" if cores else None)
        # Two of one name: the newer counts.
        assert seen.get("who") == (None if not cores else "B" if newest in cores else "0")
        values = {str(value)[:1] for value in seen.values()}
        assert len(values) <= 1


def test_order_of_the_cookies_does_not_matter() -> None:
    race = Race(large("0", 3))
    cookies = race.browser.jar.header().split("; ")
    assert len(cookies) == 4
    for order in itertools.permutations(cookies):
        assert dict(race.keeper.session("; ".join(order))) == large("0", 3)


def test_response_without_overflow_deletes_chunks_that_its_request_did_not_carry() -> None:
    race = Race(large("0", 1))
    grown, shrunk = race.response(CHANGES["grows"]), race.response(CHANGES["shrinks"])
    browser = race.arrive([*grown, *shrunk])
    assert set(browser.jar.ours()) == {"__Host-Http-s"}
    assert browser.read() == small("D")


def test_response_without_overflow_to_a_request_without_chunks_deletes_none() -> None:
    race = Race(small("0"))
    assert len(race.response(CHANGES["shrinks"])) == 1


def test_stale_chunk_beside_the_right_one_is_ignored() -> None:
    race = Race(large("0", 3))
    stale = race.browser.jar.header().split("; ")
    race.browser.visit(become(large("1", 3)))
    fresh = race.browser.jar.header().split("; ")
    chunks = [cookie for cookie in stale if not cookie.startswith("__Host-Http-s=")]
    for header in ("; ".join([*chunks, *fresh]), "; ".join([*fresh, *chunks])):
        assert dict(race.keeper.session(header)) == large("1", 3)


def test_chunk_of_another_session_is_ignored() -> None:
    ann, eve = Race(large("0", 3)), Race(large("E", 3))
    mixed = [
        cookie for cookie in ann.browser.jar.header().split("; ") if "__Host-Http-s=" in cookie
    ]
    mixed += [
        cookie for cookie in eve.browser.jar.header().split("; ") if "__Host-Http-s-" in cookie
    ]
    session = ann.keeper.session("; ".join(mixed))
    assert dict(session) == small("0")
    assert ann.keeper.counts["part-missing"] == 3


def test_logout_in_one_tab_ends_the_session_whatever_another_tab_writes() -> None:
    clock = Clock()
    shop = keeper(clock, profile="roomy", storage=ScriptedStorage(clock))
    browser = Browser(shop)
    browser.visit(lambda session: setattr(session, "subject", "ann"))
    browser.visit(become(large("0", 3)))
    slow = browser.session()
    become(large("A", 3))(slow)
    written = shop.save(slow)
    leaving = browser.session()
    leaving.invalidate()
    deleted = shop.save(leaving)
    assert written
    assert deleted
    for lines in interleavings(written, deleted):
        arrived = Browser(shop, browser.jar.copy())
        arrived.jar.receive(lines)
        session = arrived.session()
        assert session.subject is None
        assert len(session) == 0


# --- one stored part, two tabs ------------------------------------------------------------------


def test_tabs_that_write_one_stored_part_are_merged_by_its_rule(
    clock: Clock, store: ScriptedStorage
) -> None:
    asked = []

    def union(base: object, theirs: object, ours: object) -> object:
        asked.append((base, theirs, ours))
        assert isinstance(theirs, set)
        assert isinstance(ours, set)
        return theirs | ours

    browser = signed_in(node(clock, store, merge={"vault": union}), vault={"portal"})
    tabs = [browser.session(), browser.session()]
    for tab, service in zip(tabs, ("wiki", "mail"), strict=True):
        vault = tab["vault"]
        assert isinstance(vault, set)
        vault.add(service)
    for tab in tabs:
        clock.forward(1)
        browser.jar.receive(browser.keeper.save(tab))
    assert asked == [({"portal"}, {"portal", "wiki"}, {"portal", "mail"})]
    assert browser.read() == {"vault": {"portal", "wiki", "mail"}}


def test_stored_part_of_a_newer_release_is_not_merged_and_is_kept(
    clock: Clock, store: ScriptedStorage
) -> None:
    browser = signed_in(node(clock, store, merge={"vault": lambda *_: "merged"}), vault="base")
    session, newer = browser.session(), cbor2.dumps(cbor2.CBORTag(12345, 1))
    session["vault"] = "wanted"
    record, parts = record_of(browser), browser.keeper.deployment.parts
    assert parts is not None
    version, expires_at = record.spilled["vault"], record.expires_at
    clock.forward(1)
    parts.spill(record.id, "vault", newer, known=version, base=None, expires_at=expires_at)
    with pytest.raises(RowUnreadable):
        browser.keeper.save(session)
    recalled = parts.recall(record.id, "vault")
    assert recalled is not None
    assert recalled.value == newer


def test_last_of_two_tabs_wins_without_a_merge_rule(browser: Browser, clock: Clock) -> None:
    tabs = [browser.session(), browser.session()]
    for tab, value in zip(tabs, ("first", "second"), strict=True):
        tab["vault"] = value
    for tab in tabs:
        clock.forward(1)
        browser.jar.receive(browser.keeper.save(tab))
    assert browser.read()["vault"] == "second"


def test_stored_part_that_another_tab_wrote_is_seen_with_an_older_cookie(browser: Browser) -> None:
    tab = Browser(browser.keeper, browser.jar.copy())
    tab.visit(setting(vault="tab"))
    assert browser.read()["vault"] == "tab"
    browser.visit(touch)
    assert browser.read()["vault"] == "tab"


def test_row_that_another_tab_has_written_since_is_not_deleted(
    browser: Browser, store: ScriptedStorage
) -> None:
    tab = Browser(browser.keeper, browser.jar.copy())
    browser.visit(lambda session: session.pop("vault"))
    tab.visit(setting(vault="tab"))
    browser.visit(touch)
    assert list(store.keys(PARTS))
    assert tab.read()["vault"] == "tab"


def test_last_of_two_cores_brings_its_own_overflow(clock: Clock) -> None:
    browser = signed_in(node(clock, None, profile="roomy", refresh_after=60), large=["x" * 5000])
    clock.forward(61)
    reading, writing = browser.session(), browser.session()
    assert reading.subject == "ann"
    large = writing["large"]
    assert isinstance(large, list)
    large.append("y")
    written, refreshed = browser.keeper.save(writing), browser.keeper.save(reading)
    browser.jar.receive(written)
    browser.jar.receive(refreshed)
    assert browser.read() == {"large": ["x" * 5000]}

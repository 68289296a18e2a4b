"""The session: a mapping like a dict, noticed when it changes, quiet when it does not."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.strategies import SearchStrategy

from sealedstate import Keeper, LateWrite, Session, UnsupportedValue
from sealedstate._stored.parts import CONTEXT
from sealedstate._wire.record import MAX_NAME_BYTES, Place
from sealedstate.errors import LateRead
from sealedstate.session import Part
from sealedstate.storage import MemoryStorage, Stored
from tests.support.jar import Browser, Clock, keeper


class Watched(MemoryStorage):
    """A store that notes what it is asked."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.reads: list[str] = []
        self.writes: list[str] = []

    def read(self, context: str, key: str) -> Stored | None:
        self.reads.append(context)
        return super().read(context, key)

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        self.writes.append(context)
        return super().create(context, key, value, expires_at, version)

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        self.writes.append(context)
        return super().update(context, key, value, expires_at, version, expected)

    def forget(self) -> None:
        self.reads, self.writes = [], []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Watched:
    return Watched(clock)


@pytest.fixture
def shop(clock: Clock, store: Watched) -> Keeper:
    return keeper(clock, storage=store, part_policies={"vault": "server"})


@pytest.fixture
def browser(shop: Keeper) -> Browser:
    return Browser(shop)


def signed_in(browser: Browser, values: dict[str, Any] | None = None, **more: object) -> None:
    """Make the browser carry ann's session with these values."""

    def sign_in(session: Session) -> None:
        session.subject = "ann"
        session.update({**(values or {}), **more})

    browser.visit(sign_in)


# --- like a dict ------------------------------------------------------------------------------

NAMES = strategies.sampled_from(["cart", "csrf", "é", "x" * MAX_NAME_BYTES])
LEAVES: SearchStrategy[Any] = (
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.text(max_size=8)
    | strategies.binary(max_size=8)
)
VALUES: SearchStrategy[Any] = strategies.recursive(
    LEAVES,
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.text(max_size=4), inner, max_size=3)
        | strategies.tuples(inner, inner)
    ),
    max_leaves=6,
)


class Mapping(RuleBasedStateMachine):
    """A session beside a dict, over many requests of one browser."""

    session: Session

    @initialize()
    def begin(self) -> None:
        clock = Clock()
        store = MemoryStorage(clock)
        self.browser = Browser(
            keeper(clock, storage=store, profile="standard", part_policies={"csrf": "server"})
        )
        self.model: dict[str, Any] = {}
        self.request()

    def request(self) -> None:
        self.session = self.browser.session()

    def same(self, act: Callable[[MutableMapping[str, Any]], object]) -> None:
        """Do it to both: the same answer, or the same kind of error."""
        outcomes: list[tuple[object, type[Exception] | None]] = []
        for mapping in (self.model, self.session):
            try:
                outcomes.append((act(mapping), None))
            except (KeyError, TypeError) as error:
                outcomes.append((None, type(error)))
        assert outcomes[0] == outcomes[1]

    @rule(name=NAMES, value=VALUES)
    def assign(self, name: str, value: Any) -> None:
        for mapping in (self.model, self.session):
            mapping[name] = copy.deepcopy(value)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        self.same(lambda mapping: mapping.__delitem__(name))

    @rule(name=NAMES)
    def look_up(self, name: str) -> None:
        self.same(lambda mapping: mapping[name])
        self.same(lambda mapping: mapping.get(name))
        self.same(lambda mapping: mapping.get(name, "default"))
        self.same(lambda mapping: name in mapping)

    @rule(name=NAMES, default=strategies.booleans())
    def pop(self, name: str, default: bool) -> None:
        arguments = ("default",) if default else ()
        self.same(lambda mapping: mapping.pop(name, *arguments))

    @rule(name=NAMES, value=LEAVES)
    def set_default(self, name: str, value: Any) -> None:
        self.same(lambda mapping: mapping.setdefault(name, value))

    @rule(values=strategies.dictionaries(NAMES, LEAVES))
    def update(self, values: dict[str, Any]) -> None:
        self.same(lambda mapping: mapping.update(values))

    @rule(values=strategies.dictionaries(NAMES, LEAVES))
    def merge(self, values: dict[str, Any]) -> None:
        self.model |= values
        self.session |= values

    @rule(name=NAMES, value=LEAVES)
    def change_inside(self, name: str, value: Any) -> None:
        for mapping in (self.model, self.session):
            held: Any = mapping.get(name)
            if isinstance(held, list):
                held.append(value)
                if isinstance(held[0], dict):
                    held[0]["inside"] = value
            elif isinstance(held, dict):
                held["inside"] = value

    @rule()
    def clear(self) -> None:
        self.same(lambda mapping: mapping.clear())

    @rule(odd=strategies.sampled_from([None, 3, ("cart",), b"cart"]))
    def look_up_no_name(self, odd: Any) -> None:
        self.same(lambda mapping: mapping[odd])
        self.same(lambda mapping: odd in mapping)
        self.same(lambda mapping: [] in mapping)  # type: ignore[comparison-overlap]

    @rule()
    def respond(self) -> None:
        self.browser.jar.receive(self.browser.keeper.save(self.session))
        self.request()

    @rule()
    def respond_after_reading_nothing(self) -> None:
        self.respond()
        self.respond()

    @invariant()
    def reads_alike(self) -> None:
        if hasattr(self, "model"):
            assert self.session == self.model
            assert dict(self.session) == self.model
            assert len(self.session) == len(self.model)
            assert bool(self.session) == bool(self.model)
            assert set(self.session.keys()) == set(self.model)
            assert sorted(map(repr, self.session.values())) == sorted(
                map(repr, self.model.values())
            )


TestASessionBehavesLikeADict = Mapping.TestCase
TestASessionBehavesLikeADict.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None
)


def test_popping_an_item_takes_one_that_was_there(browser: Browser) -> None:
    signed_in(browser, a=1, b=2)
    session = browser.session()
    taken = dict([session.popitem()])
    assert taken | dict(session) == {"a": 1, "b": 2}
    assert len(session) == 1
    session.clear()
    with pytest.raises(KeyError):
        session.popitem()


def test_a_session_may_be_changed_while_it_is_iterated(browser: Browser) -> None:
    signed_in(browser, a=1, b=2, c=3)
    session = browser.session()
    for name in session:
        del session[name]
    assert dict(session) == {}


def test_values_come_back_as_they_were(browser: Browser) -> None:
    values = {"list": [1, [2]], "tuple": (1, "2"), "bytes": b"\0\xff", "set": {1, 2}, "none": None}
    signed_in(browser, values)
    assert browser.read() == values
    assert type(browser.read()["tuple"]) is tuple


def test_one_value_is_one_object_throughout_a_request(browser: Browser) -> None:
    signed_in(browser, cart=[1])
    session = browser.session()
    assert session["cart"] is session["cart"]


# --- names and values that are refused --------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", 3, None, b"cart", ("a",), "\ud800", "x" * (MAX_NAME_BYTES + 1), "é" * 65]
)
def test_what_names_no_part_is_refused(browser: Browser, name: Any) -> None:
    session = browser.session()
    with pytest.raises(UnsupportedValue):
        session[name] = 1
    assert dict(session) == {}


@pytest.mark.parametrize("name", ["x", " ", "\0", "a.b[c]", "é" * 64, "\N{GRINNING FACE}", "id"])
def test_any_other_text_names_a_part(browser: Browser, name: str) -> None:
    signed_in(browser, {name: 1})
    assert browser.read() == {name: 1}


def test_a_value_that_no_session_carries_is_refused_where_it_is_assigned(browser: Browser) -> None:
    signed_in(browser, cart="good")
    session = browser.session()
    with pytest.raises(UnsupportedValue) as caught:
        session["cart"] = [{"price": [1, object()]}]
    assert caught.value.path == "session['cart'][0]['price'][1]"
    assert session["cart"] == "good"
    assert browser.keeper.save(session) == []


def test_a_value_that_no_session_carries_put_inside_another_is_refused_when_saving(
    browser: Browser,
) -> None:
    signed_in(browser, cart=[])
    session = browser.session()
    cart: Any = session["cart"]
    cart.append(object())
    with pytest.raises(UnsupportedValue) as caught:
        browser.keeper.save(session)
    assert caught.value.path == "session['cart'][0]"
    assert browser.read() == {"cart": []}


# --- what is noticed, and what is not -------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda cart: cart.append(1),
        lambda cart: cart[0].update(price=3),
        lambda cart: cart[0]["tags"].append("new"),
        lambda cart: cart.pop(),
    ],
)
def test_a_change_inside_a_value_is_noticed(
    browser: Browser, change: Callable[[Any], object]
) -> None:
    cart: list[Any] = [{"price": 2, "tags": []}]
    signed_in(browser, cart=cart)
    assert browser.visit(lambda session: change(session["cart"]))
    change(cart)
    assert browser.read() == {"cart": cart}


def test_a_change_inside_a_value_after_it_was_assigned_is_noticed(browser: Browser) -> None:
    cart = [1]

    def change(session: Session) -> None:
        session["cart"] = cart
        cart.append(2)

    browser.visit(change)
    assert browser.read() == {"cart": [1, 2]}


UNCHANGED: dict[str, Callable[[Session], object]] = {
    "nothing": lambda session: None,
    "read": lambda session: (dict(session), session.id, session.subject, session.created_at),
    "assigned as it was": lambda session: session.update(dict(session)),
    "assigned equal": lambda session: session.__setitem__("cart", [1, {"a": 2}]),
    "changed and back": lambda session: _changed_and_back(session["cart"]),
    "deleted and back": lambda session: session.__setitem__("cart", session.pop("cart")),
    "deleted what is not there": lambda session: session.pop("nobody", None),
    "added and deleted": lambda session: (session.update(new=1), session.pop("new")),
    "the same subject": lambda session: setattr(session, "subject", "ann"),
    "refused": lambda session: _refused(session),
}


def _refused(session: Session) -> None:
    with pytest.raises(UnsupportedValue):
        session[""] = 1


def _changed_and_back(cart: Any) -> None:
    cart.append(3)
    cart.pop()


@pytest.mark.parametrize("change", UNCHANGED)
def test_what_is_as_it_was_writes_nothing(browser: Browser, store: Watched, change: str) -> None:
    signed_in(browser, cart=[1, {"a": 2}], vault="secret")
    store.forget()
    assert browser.visit(UNCHANGED[change]) == []
    assert store.writes == []


def test_an_untouched_session_opens_nothing_asks_nothing_and_writes_nothing(
    browser: Browser, store: Watched
) -> None:
    signed_in(browser, cart=[1], vault="secret")
    store.forget()
    before = Counter(browser.keeper.counts)
    session = browser.session()
    assert (repr(session), session.accessed) == ("<Session>", False)
    assert browser.keeper.save(session) == []
    session.mark_headers_sent()
    assert session.late_changes() == []
    assert browser.keeper.counts == before
    assert store.reads == store.writes == []


def test_a_part_elsewhere_is_fetched_only_when_somebody_reads_it(
    browser: Browser, store: Watched
) -> None:
    signed_in(browser, cart=[1], vault="secret")
    store.forget()
    session = browser.session()
    assert session["cart"] == [1]
    assert session.changes()
    session["cart"] = [2]
    browser.jar.receive(browser.keeper.save(session))
    assert CONTEXT not in store.reads + store.writes
    assert browser.session()["vault"] == "secret"
    assert store.reads.count(CONTEXT) == 1


def test_a_part_elsewhere_can_be_overwritten_or_deleted_without_being_fetched(
    browser: Browser, store: Watched
) -> None:
    signed_in(browser, vault="secret")
    store.forget()
    browser.visit(lambda session: session.update(vault="other"))
    assert CONTEXT not in store.reads
    assert store.writes == [CONTEXT]
    browser.visit(lambda session: session.__delitem__("vault"))
    assert CONTEXT not in store.reads
    assert browser.read() == {}


def test_a_visitor_who_writes_nothing_gets_no_cookie(browser: Browser, store: Watched) -> None:
    assert browser.visit(lambda session: (dict(session), session.id, "cart" in session)) == []
    assert store.reads == store.writes == []


# --- who it is --------------------------------------------------------------------------------


def test_an_id_is_22_characters_and_stays(browser: Browser, clock: Clock) -> None:
    signed_in(browser)
    first = browser.session().id
    assert len(first) == 22
    assert set(first) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    browser.visit(lambda session: session.update(cart=1))
    clock.forward(3600)
    browser.visit()
    assert browser.session().id == first


def test_an_id_that_is_seen_before_the_first_save_is_the_one_that_is_saved(
    browser: Browser,
) -> None:
    session = browser.session()
    session["cart"] = 1
    seen = session.id
    browser.jar.receive(browser.keeper.save(session))
    assert browser.session().id == seen


@pytest.mark.parametrize(
    "change",
    [
        lambda session: session.regenerate(),
        lambda session: setattr(session, "subject", "bob"),
        lambda session: setattr(session, "subject", None),
        lambda session: session.invalidate(),
    ],
    ids=["regenerate", "another subject", "no subject", "invalidate"],
)
def test_an_id_changes_with_privilege(
    browser: Browser, change: Callable[[Session], object]
) -> None:
    signed_in(browser)
    session = browser.session()
    before = session.id
    change(session)
    session["after"] = True
    after = session.id
    assert after != before
    browser.jar.receive(browser.keeper.save(session))
    assert browser.session().id == after


def test_regenerating_keeps_parts_subject_and_lifetimes(browser: Browser, clock: Clock) -> None:
    signed_in(browser, cart=[1], vault="secret")
    before = browser.session()
    times = before.created_at, before.expires_at
    clock.forward(600)
    browser.visit(lambda session: session.regenerate())
    session = browser.session()
    assert dict(session) == {"cart": [1], "vault": "secret"}
    assert session.subject == "ann"
    assert (session.created_at, session.expires_at) == times


def test_a_visitor_who_signs_in_keeps_his_parts_and_lives_from_now(
    browser: Browser, clock: Clock
) -> None:
    browser.visit(lambda session: session.update(cart=[1], vault="secret"))
    clock.forward(3600)
    signed_in(browser)
    session = browser.session()
    assert dict(session) == {"cart": [1], "vault": "secret"}
    assert session.created_at == int(clock())
    assert session.expires_at == int(clock()) + browser.keeper.settings.absolute_lifetime


@pytest.mark.parametrize("subject", ["bob", None])
def test_nobody_inherits_the_parts_of_another(browser: Browser, subject: str | None) -> None:
    signed_in(browser, cart=[1], vault="secret")
    session = browser.session()
    session.subject = subject
    assert dict(session) == {}
    session["new"] = 1
    browser.jar.receive(browser.keeper.save(session))
    assert browser.read() == {"new": 1}
    assert browser.session().subject == subject


@pytest.mark.parametrize("subject", [3, b"ann", ["ann"], "\ud800", object()])
def test_a_subject_that_is_no_text_is_refused_and_nothing_changes(
    browser: Browser, subject: Any
) -> None:
    signed_in(browser, cart=[1])
    session = browser.session()
    before = session.id
    with pytest.raises(UnsupportedValue):
        session.subject = subject
    assert (dict(session), session.id, session.subject) == ({"cart": [1]}, before, "ann")
    assert browser.keeper.save(session) == []


def test_a_session_is_new_until_a_request_brings_it(browser: Browser) -> None:
    session = browser.session()
    assert session.is_new
    assert (session.created_at, session.expires_at) == (None, None)
    session["cart"] = 1
    assert session.is_new
    browser.jar.receive(browser.keeper.save(session))
    assert not browser.session().is_new


def test_an_invalidated_session_is_empty_and_new_and_can_be_written_again(
    browser: Browser,
) -> None:
    signed_in(browser, cart=[1], vault="secret")
    session = browser.session()
    before = session.id
    session.invalidate()
    assert (dict(session), session.subject, session.is_new) == ({}, None, True)
    assert (session.created_at, session.expires_at, session.withheld) == (None, None, None)
    session["message"] = "bye"
    browser.jar.receive(browser.keeper.save(session))
    after = browser.session()
    assert dict(after) == {"message": "bye"}
    assert after.subject is None
    assert after.id not in (before, "")


def test_the_layout_says_where_parts_live_and_how_large_they_are(browser: Browser) -> None:
    signed_in(browser, cart="12", vault="secret")
    views = browser.keeper.info(browser.session()).parts
    assert views["cart"].place == "core"
    assert views["cart"].value_bytes == 3
    assert views["vault"].place == "spilled"
    assert views["vault"].value_bytes is None


# --- too late ---------------------------------------------------------------------------------

LATE: dict[str, Callable[[Session], object]] = {
    "assign": lambda session: session.__setitem__("cart", 2),
    "delete": lambda session: session.__delitem__("cart"),
    "delete what is not there": lambda session: session.__delitem__("nobody"),
    "pop": lambda session: session.pop("cart"),
    "set a default": lambda session: session.setdefault("nobody", 1),
    "update": lambda session: session.update(cart=2),
    "merge": lambda session: session.__ior__({"cart": 2}),
    "clear": lambda session: session.clear(),
    "subject": lambda session: setattr(session, "subject", "bob"),
    "regenerate": lambda session: session.regenerate(),
    "invalidate": lambda session: session.invalidate(),
}


@pytest.mark.parametrize("change", LATE)
def test_a_write_after_the_headers_raises_and_changes_nothing(
    browser: Browser, store: Watched, change: str
) -> None:
    signed_in(browser, cart=1)
    session = browser.session()
    before = session.id
    session.mark_headers_sent()
    store.forget()
    with pytest.raises(LateWrite):
        LATE[change](session)
    assert (dict(session), session.subject, session.id) == ({"cart": 1}, "ann", before)
    assert store.writes == []
    assert browser.read() == {"cart": 1}


def test_a_session_that_was_looked_at_can_be_read_after_the_headers(browser: Browser) -> None:
    signed_in(browser, cart=1, vault="secret")
    session = browser.session()
    assert session["cart"] == 1
    session.mark_headers_sent()
    assert dict(session) == {"cart": 1, "vault": "secret"}


def test_a_first_look_after_the_headers_raises(browser: Browser) -> None:
    signed_in(browser, cart=1)
    looks: list[Callable[[Session], object]] = [
        lambda session: session["cart"],
        len,
        list,
        lambda session: "cart" in session,
        lambda session: session.subject,
        lambda session: session.id,
    ]
    for look in looks:
        session = browser.session()
        session.mark_headers_sent()
        with pytest.raises(LateRead):
            look(session)


def test_what_was_changed_inside_after_the_headers_is_told_by_name(browser: Browser) -> None:
    signed_in(browser, cart=[1], prefs={}, name="ann", other=[2])
    session = browser.session()
    cart: Any = session["cart"]
    prefs: Any = session["prefs"]
    assert session["name"] == "ann"
    assert session["other"] == [2]
    browser.keeper.save(session)
    session.mark_headers_sent()
    assert session.late_changes() == []
    cart.append(2)
    prefs["object"] = object()
    assert sorted(session.late_changes()) == ["cart", "prefs"]


# --- quiet ------------------------------------------------------------------------------------


def test_no_repr_tells_what_a_session_holds(browser: Browser) -> None:
    signed_in(browser, {"canary-name": "canary-value"})
    session = browser.session()
    reprs = [repr(session)]
    assert session["canary-name"] == "canary-value"
    reprs += [repr(session), f"{session}", repr(session.changes())]
    reprs.append(repr(Part(Place.CORE, 1, b"canary", b"canary", "canary")))
    assert [text for text in reprs if "canary" in text] == []
    assert reprs[1] == "<Session of 1 parts>"

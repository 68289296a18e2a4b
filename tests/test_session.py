"""A session is a mapping like a dict, saved when it changed, and silent when it did not."""

from __future__ import annotations

import copy
import operator
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from types import MappingProxyType
from typing import Any, cast

import pytest
from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.strategies import SearchStrategy

from sealedstate import Keeper, LateWrite, Session, UnsupportedValue, UsageError
from sealedstate._stored.parts import CONTEXT
from sealedstate._wire.record import MAX_NAME_BYTES, Place
from sealedstate.session import Part
from sealedstate.storage import MemoryStorage
from sealedstate.testing import ScriptedStorage
from tests.support.examples import examples
from tests.support.jar import Browser, Clock, keeper
from tests.support.shop import setting, sign_in
from tests.support.tables import check_each


@pytest.fixture
def store(clock: Clock) -> ScriptedStorage:
    return ScriptedStorage(clock)


@pytest.fixture
def shop(clock: Clock, store: ScriptedStorage) -> Keeper:
    return keeper(clock, storage=store, part_policies={"vault": "server"})


@pytest.fixture
def browser(shop: Keeper) -> Browser:
    return Browser(shop)


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


Act = Callable[[MutableMapping[str, Any], str, Any], object]
ACTS: dict[str, Act] = {
    "delete": lambda mapping, name, value: mapping.__delitem__(name),
    "look up": lambda mapping, name, value: (name in mapping, mapping.get(name), mapping[name]),
    "get": lambda mapping, name, value: mapping.get(name, value),
    "pop": lambda mapping, name, value: mapping.pop(name),
    "pop or": lambda mapping, name, value: mapping.pop(name, value),
    "set default": lambda mapping, name, value: mapping.setdefault(name, value),
    "update": lambda mapping, name, value: mapping.update({name: value, "cart": value}),
    "merge": lambda mapping, name, value: (
        cast(Any, operator).ior(mapping, {name: value}) == mapping
    ),
    "clear": lambda mapping, name, value: mapping.clear(),
}


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
        """Both give the same answer, or the same kind of error."""
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

    @rule(act=strategies.sampled_from(list(ACTS.values())), name=NAMES, value=LEAVES)
    def act(self, act: Act, name: str, value: Any) -> None:
        self.same(lambda mapping: act(mapping, name, value))

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

    @rule(odd=strategies.sampled_from([None, 3, ("cart",), b"cart", []]))
    def look_up_no_name(self, odd: Any) -> None:
        self.same(lambda mapping: mapping[odd])
        self.same(lambda mapping: odd in mapping)

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


TestSessionBehavesLikeADict = Mapping.TestCase
TestSessionBehavesLikeADict.settings = examples(200, stateful_step_count=40)


def test_session_of_another_keeper_is_not_sealed() -> None:
    door, other = keeper(Clock()), keeper(Clock(), realm="other")
    session = door.session()
    assert other.save(session) == []  # it was not used
    session["a"] = 1
    with pytest.raises(UsageError, match="another keeper"):
        other.save(session)
    assert door.save(session)


def test_views_can_be_reversed_as_those_of_a_dict(browser: Browser) -> None:
    sign_in(browser, a=1, b=[2], vault="secret")
    session = browser.session()
    model = dict(session)
    assert list(reversed(session.keys())) == list(reversed(model.keys()))
    assert list(reversed(session.values())) == list(reversed(model.values()))
    assert list(reversed(session.items())) == list(reversed(model.items()))


def test_popitem_takes_the_last_part_as_a_dict_does(
    browser: Browser, store: ScriptedStorage
) -> None:
    sign_in(browser, a=1, b=[2], vault="secret")
    session = browser.session()
    model = dict(session)
    while model:
        assert list(reversed(session)) == list(reversed(model)) == list(session)[::-1]
        assert session.popitem() == model.popitem()
        assert session == model
    with pytest.raises(KeyError):
        session.popitem()
    # A part that the store lost is no item.
    for key in store.keys(CONTEXT):
        store.delete(CONTEXT, key)
    session = browser.session()
    assert next(reversed(session)) == "vault"
    assert session.popitem() == ("b", [2])


class Foreign(MutableMapping[str, Any]):
    """A mapping that is no dict."""

    __getitem__ = dict[str, Any](b=3).__getitem__
    __delitem__ = __setitem__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[str]:
        return iter("b")

    def __len__(self) -> int:
        return 1


def test_session_is_merged_into_a_plain_dict(browser: Browser) -> None:
    sign_in(browser, a=1, vault="secret")
    session, held = browser.session(), {"a": 1, "vault": "secret"}
    for other in ({}, {"a": 2}, {"b": 3}, Foreign(), MappingProxyType({"a": 4}), session):
        plain = dict(other)
        for merged, expected in ((session | other, held | plain), (other | session, plain | held)):
            assert type(merged) is dict
            assert (merged, list(merged)) == (expected, list(expected))
    for odd in (None, [("b", 3)], 3):
        with pytest.raises(TypeError):
            cast(Any, session) | odd
        with pytest.raises(TypeError):
            odd | cast(Any, session)
    assert not session.changes().is_modified
    before = session
    session |= {"b": 3}
    session |= [("c", 4)]
    assert session is before
    assert dict(session) == held | {"b": 3, "c": 4}
    assert session == Browser(browser.keeper, browser.jar).session() | {"b": 3, "c": 4}
    assert not hasattr(session, "fromkeys")


COPIES: dict[str, Callable[[Session], object]] = {
    "copy()": lambda session: session.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "deepcopy of what holds it": lambda session: copy.deepcopy([session])[0],
    "pickle": lambda session: pickle.loads(pickle.dumps(session)),
}


def test_copy_is_a_plain_dict_that_shares_nothing_with_the_session(browser: Browser) -> None:
    sign_in(browser, cart=[1, {"a": 2}], vault={"b": [3]})

    def check(make: Callable[[Session], Any]) -> None:
        session = browser.session()
        made = make(session)
        assert type(made) is dict
        assert made == {"cart": [1, {"a": 2}], "vault": {"b": [3]}} == session
        made["cart"][1]["a"] = made["vault"]["b"] = "other"
        made["new"] = 1
        assert session == {"cart": [1, {"a": 2}], "vault": {"b": [3]}}
        assert browser.keeper.save(session) == []
        # What the session holds after that is not in the copy either.
        session["cart"].append("late")  # type: ignore[attr-defined]
        assert made["cart"] == [1, {"a": "other"}]
        session.mark_headers_sent()
        assert type(make(session)) is dict

    check_each(COPIES, check)


def test_session_may_be_changed_during_iteration(browser: Browser) -> None:
    sign_in(browser, a=1, b=2, c=3)
    session = browser.session()
    for name in session:
        del session[name]
    assert dict(session) == {}


def test_values_keep_their_types(browser: Browser) -> None:
    values = {"list": [1, [2]], "tuple": (1, "2"), "bytes": b"\0\xff", "set": {1, 2}, "none": None}
    sign_in(browser, **values)
    assert browser.read() == values
    assert type(browser.read()["tuple"]) is tuple


# --- names and values that are refused --------------------------------------------------------


def test_invalid_name_is_refused_and_any_other_text_is_a_name(browser: Browser) -> None:
    session = browser.session()
    invalid: list[Any] = [
        "",
        3,
        None,
        b"cart",
        ("a",),
        "\ud800",
        "x" * (MAX_NAME_BYTES + 1),
        "é" * 65,
    ]
    for name in invalid:
        with pytest.raises(UnsupportedValue):
            session[name] = 1
    assert dict(session) == {}
    assert browser.keeper.save(session) == []
    for name in ("x", " ", "\0", "a.b[c]", "é" * 64, "\N{GRINNING FACE}", "id"):
        sign_in(browser, **{name: 1})
        assert browser.read()[name] == 1


def test_unsupported_value_is_refused_at_its_assignment(browser: Browser) -> None:
    sign_in(browser, cart="good")
    session = browser.session()
    with pytest.raises(UnsupportedValue) as caught:
        session["cart"] = [{"price": [1, object()]}]
    assert caught.value.path == "session['cart'][0].values()[0][1]"
    assert session["cart"] == "good"
    assert browser.keeper.save(session) == []


def test_unsupported_value_inside_another_is_refused_by_the_save(
    browser: Browser,
) -> None:
    sign_in(browser, cart=[])
    session = browser.session()
    cart: Any = session["cart"]
    cart.append(object())
    with pytest.raises(UnsupportedValue) as caught:
        browser.keeper.save(session)
    assert caught.value.path == "session['cart'][0]"
    assert browser.read() == {"cart": []}


# --- which changes are saved --------------------------------------------------------------------


INSIDE: dict[str, Callable[[Any], object]] = {
    "append": lambda cart: cart.append(1),
    "update": lambda cart: cart[0].update(price=3),
    "append deeper": lambda cart: cart[0]["tags"].append("new"),
    "pop": lambda cart: cart.pop(),
}


def test_change_inside_a_value_is_saved(browser: Browser) -> None:
    def check(change: Callable[[Any], object]) -> None:
        cart: list[Any] = [{"price": 2, "tags": []}]
        sign_in(browser, cart=cart)
        assert browser.visit(lambda session: change(session["cart"]))
        change(cart)
        assert browser.read() == {"cart": cart}

    check_each(INSIDE, check)

    def assign_and_change(session: Session) -> None:
        session["cart"] = cart
        cart.append(2)

    cart = [1]
    browser.visit(assign_and_change)
    assert browser.read() == {"cart": [1, 2]}


UNCHANGED: dict[str, Callable[[Session], object]] = {
    "nothing": lambda session: None,
    "read": lambda session: (dict(session), session.id, session.subject, session.created_at),
    "assigned as it was": lambda session: session.update(dict(session)),
    "assigned equal": lambda session: session.__setitem__("cart", [1, {"a": 2}]),
    "changed and back": lambda session: _changed_and_back(session["cart"]),
    "deleted and back": lambda session: session.__setitem__("cart", session.pop("cart")),
    "deleted a missing part": lambda session: session.pop("missing", None),
    "added and deleted": lambda session: (session.update(new=1), session.pop("new")),
}


def _changed_and_back(cart: Any) -> None:
    cart.append(3)
    cart.pop()


def test_unchanged_session_writes_nothing(browser: Browser, store: ScriptedStorage) -> None:
    sign_in(browser, cart=[1, {"a": 2}], vault="secret")
    store.calls.clear()

    def check(change: Callable[[Session], object]) -> None:
        assert browser.visit(change) == []
        assert not store.count.keys() & set(store.WRITES)

    check_each(UNCHANGED, check)


TOUCHING: dict[str, Callable[[Session], object]] = {
    "read a list": lambda session: session["cart"],
    "read all": lambda session: session.copy(),
    "watch": lambda session: session.watch("cart", session.read_unwatched()[0]["cart"]),
    "assign": lambda session: session.update(name="Ann"),
    "delete": lambda session: session.pop("name"),
    "pop": lambda session: session.popitem(),
    "clear": lambda session: session.clear(),
    "sign in": lambda session: setattr(session, "subject", "ann"),
    "sign out": lambda session: setattr(session, "subject", None),
    "regenerate": lambda session: session.regenerate(),
    "limit": lambda session: session.limit(persistent=False),
    "keep": lambda session: session.keep(),
    "invalidate": lambda session: session.invalidate(),
}


def test_session_is_touched_by_all_that_may_change_it(browser: Browser) -> None:
    def check(touch: Callable[[Session], object]) -> None:
        sign_in(browser, cart=[1], name="Ann", vault="secret")
        session = browser.session()
        assert (session["name"], session["vault"], "cart" in session) == ("Ann", "secret", True)
        assert (session.subject, len(session), session.is_new) == ("ann", 3, False)
        assert not session.is_touched
        assert not session.changes().is_modified
        touch(session)
        assert session.is_touched
        assert browser.keeper.save(session) is not None
        # What it has read or assigned may change after a save, too.
        assert session.is_touched

    check_each(TOUCHING, check)


def test_untouched_session_costs_nothing(browser: Browser, store: ScriptedStorage) -> None:
    sign_in(browser, cart=[1], vault="secret")
    store.calls.clear()
    before = Counter(browser.keeper.counts)
    session = browser.session()
    assert (repr(session), session.accessed) == ("<Session>", False)
    assert browser.keeper.save(session) == []
    session.mark_headers_sent()
    assert session.late_changes() == []
    assert browser.keeper.counts == before
    assert not store.calls


def calls_for_parts(store: ScriptedStorage) -> list[str]:
    return [call.operation for call in store.calls if call.context == CONTEXT]


def test_stored_part_is_fetched_only_when_it_is_read(
    browser: Browser, store: ScriptedStorage
) -> None:
    sign_in(browser, cart=[1], vault="secret")
    store.calls.clear()
    session = browser.session()
    assert session["cart"] == [1]
    assert session.changes()
    session["cart"] = [2]
    browser.jar.receive(browser.keeper.save(session))
    assert not calls_for_parts(store)
    assert browser.session()["vault"] == "secret"
    assert calls_for_parts(store) == ["read"]


def test_stored_part_is_overwritten_and_deleted_without_a_read(
    browser: Browser, store: ScriptedStorage
) -> None:
    sign_in(browser, vault="secret")
    store.calls.clear()
    browser.visit(setting(vault="other"))
    browser.visit(lambda session: session.__delitem__("vault"))
    assert calls_for_parts(store) == ["update"]
    assert browser.read() == {}


# --- identity ---------------------------------------------------------------------------------


def test_id_is_22_characters_and_stays(browser: Browser, clock: Clock) -> None:
    session = browser.session()
    session["cart"] = 1
    first = session.id
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", first)
    browser.jar.receive(browser.keeper.save(session))
    browser.visit(lambda session: session.update(cart=2))
    clock.forward(3600)
    browser.visit()
    assert browser.session().id == first


PRIVILEGES: dict[str, Callable[[Session], object]] = {
    "regenerate": lambda session: session.regenerate(),
    "another subject": lambda session: setattr(session, "subject", "bob"),
    "no subject": lambda session: setattr(session, "subject", None),
    "invalidate": lambda session: session.invalidate(),
}


def test_id_changes_with_privilege(browser: Browser) -> None:
    def check(change: Callable[[Session], object]) -> None:
        sign_in(browser)
        session = browser.session()
        before = session.id
        change(session)
        session["after"] = True
        after = session.id
        assert after != before
        browser.jar.receive(browser.keeper.save(session))
        assert browser.session().id == after

    check_each(PRIVILEGES, check)


def test_regenerate_keeps_parts_subject_and_lifetimes(browser: Browser, clock: Clock) -> None:
    sign_in(browser, cart=[1], vault="secret")
    before = browser.session()
    times = before.created_at, before.expires_at
    clock.forward(600)
    browser.visit(lambda session: session.regenerate())
    session = browser.session()
    assert dict(session) == {"cart": [1], "vault": "secret"}
    assert session.subject == "ann"
    assert (session.created_at, session.expires_at) == times


def test_sign_in_keeps_the_parts_of_the_visitor_and_restarts_the_lifetime(
    browser: Browser, clock: Clock
) -> None:
    browser.visit(lambda session: session.update(cart=[1], vault="secret"))
    clock.forward(3600)
    sign_in(browser)
    session = browser.session()
    assert dict(session) == {"cart": [1], "vault": "secret"}
    assert session.created_at == int(clock())
    assert session.expires_at == int(clock()) + browser.keeper.settings.absolute_lifetime


def test_new_subject_does_not_inherit_parts(browser: Browser) -> None:
    for subject in ("bob", None):
        sign_in(browser, cart=[1], vault="secret")
        session = browser.session()
        session.subject = subject
        assert dict(session) == {}
        session["new"] = 1
        browser.jar.receive(browser.keeper.save(session))
        assert browser.read() == {"new": 1}
        assert browser.session().subject == subject


def test_subject_that_is_no_text_is_refused_and_changes_nothing(browser: Browser) -> None:
    sign_in(browser, cart=[1])
    session = browser.session()
    before = session.id
    wrong: list[Any] = [3, b"ann", ["ann"], "\ud800", object()]
    for subject in wrong:
        with pytest.raises(UnsupportedValue):
            session.subject = subject
    assert (dict(session), session.id, session.subject) == ({"cart": [1]}, before, "ann")
    assert browser.keeper.save(session) == []


def test_session_is_new_until_a_request_brings_it(browser: Browser) -> None:
    session = browser.session()
    assert session.is_new
    assert (session.created_at, session.expires_at) == (None, None)
    session["cart"] = 1
    assert session.is_new
    browser.jar.receive(browser.keeper.save(session))
    assert not browser.session().is_new


def test_invalidated_session_is_empty_and_new_and_can_be_written(
    browser: Browser,
) -> None:
    sign_in(browser, cart=[1], vault="secret")
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


def test_layout_has_the_place_and_size_of_each_part(browser: Browser) -> None:
    sign_in(browser, cart="12", vault="secret")
    views = browser.keeper.info(browser.session()).parts
    assert views["cart"].place == "core"
    assert views["cart"].value_bytes == 3
    assert views["vault"].place == "spilled"
    assert views["vault"].value_bytes is None


# --- too late ---------------------------------------------------------------------------------

LATE: dict[str, Callable[[Session], object]] = {
    "assign": lambda session: session.__setitem__("cart", 2),
    "delete": lambda session: session.__delitem__("cart"),
    "delete a missing part": lambda session: session.__delitem__("missing"),
    "pop": lambda session: session.pop("cart"),
    "set a default": lambda session: session.setdefault("missing", 1),
    "update": lambda session: session.update(cart=2),
    "merge": lambda session: session.__ior__({"cart": 2}),
    "clear": lambda session: session.clear(),
    "subject": lambda session: setattr(session, "subject", "bob"),
    "regenerate": lambda session: session.regenerate(),
    "invalidate": lambda session: session.invalidate(),
}


def test_write_after_the_headers_raises_and_changes_nothing(
    browser: Browser, store: ScriptedStorage
) -> None:
    sign_in(browser, cart=1)

    def check(change: Callable[[Session], object]) -> None:
        session = browser.session()
        before = session.id
        session.mark_headers_sent()
        store.calls.clear()
        with pytest.raises(LateWrite):
            change(session)
        assert (dict(session), session.subject, session.id) == ({"cart": 1}, "ann", before)
        assert not store.calls
        assert browser.read() == {"cart": 1}

    check_each(LATE, check)


def test_touched_session_can_be_read_after_the_headers(browser: Browser) -> None:
    sign_in(browser, cart=1, vault="secret")
    session = browser.session()
    assert session["cart"] == 1
    session.mark_headers_sent()
    assert dict(session) == {"cart": 1, "vault": "secret"}


def test_late_changes_are_reported_by_name(browser: Browser) -> None:
    sign_in(browser, cart=[1], prefs={}, name="ann", other=[2])
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


def test_no_repr_shows_the_contents_of_a_session(browser: Browser) -> None:
    sign_in(browser, **{"canary-name": "canary-value"})
    session = browser.session()
    reprs = [repr(session)]
    assert session["canary-name"] == "canary-value"
    reprs += [repr(session), f"{session}", repr(session.changes())]
    reprs.append(repr(Part(Place.CORE, 1, b"canary", b"canary", "canary")))
    assert [text for text in reprs if "canary" in text] == []
    assert reprs[1] == "<Session of 1 parts>"

"""Every part gets a place, no capacity is exceeded, and no part moves without a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import assume, given, settings, strategies
from hypothesis.strategies import SearchStrategy

from sealedstate._cookies.placement import RETURN_SHARE, Capacity, PartSize, find_reserve, plan
from sealedstate._wire.record import Place, Policy
from sealedstate.errors import SessionTooLarge, UsageError
from tests.support.shards import shards
from tests.support.tables import check_each

OVERFLOW_ENTRY = 31
CORE, OVERFLOW, SPILLED = Place.CORE, Place.OVERFLOW, Place.SPILLED
COOKIE, SERVER = Policy.COOKIE, Policy.SERVER


def part(
    name: str, size: int | None, policy: Policy = Policy.AUTO, place: Place | None = None
) -> PartSize:
    return PartSize(name, size, len(name) + 10, policy, place)


def core_only(core: int) -> Capacity:
    return Capacity(core, 0, 0, OVERFLOW_ENTRY)


def roomy(core: int, overflow: int) -> Capacity:
    return Capacity(core, overflow, core + overflow, OVERFLOW_ENTRY)


def moved(parts: Sequence[PartSize], places: Mapping[str, Place]) -> list[PartSize]:
    """The parts of the next request after a save by this plan; spilled parts are recalled."""
    return [replace(each, place=places[each.name]) for each in parts]


def spilled(places: Mapping[str, Place]) -> set[str]:
    return {name for name, place in places.items() if place is SPILLED}


@pytest.fixture(scope="module", params=shards(10))
def shard() -> None:
    """Each is a hundred examples of every test that uses it."""


def in_shards(test: Callable[..., None]) -> Callable[..., None]:
    marked: Callable[..., None] = pytest.mark.usefixtures("shard")(test)
    return settings(max_examples=100, deadline=None)(marked)


# --- plans ----------------------------------------------------------------------------------------


class Case(NamedTuple):
    """Parts, the capacity for them, and the expected places, by name where they differ from CORE.

    Every case has a store, and this spill order.
    """

    parts: list[PartSize]
    capacity: Capacity
    expected: dict[str, Place]
    order: tuple[str, ...] = ()


BY_ORDER = [part("cart", 100), part("prefs", 100), part("logins", 900), part("csrf", 40)]
ORDER = ("prefs", "cart")
RETURNING = [part("cart", 500, place=SPILLED), part("a", 300, place=CORE)]
TWO_RETURNING = [
    *(part("large", 900, place=SPILLED), part("small", 100, place=SPILLED), part("a", 100))
]
IN_OVERFLOW = [part("a", 400), part("b", 500, place=OVERFLOW), part("c", 600)]
RETURN_CORE = int(800 / RETURN_SHARE)
CASES = {
    "no parts": Case([], core_only(0), {}),
    "parts that fit stay in the core": Case(
        [part("a", 100), part("b", 200), part("c", 300)], roomy(600, 5000), {}
    ),
    "the largest part overflows": Case(
        [part("large", 1000), part("small", 10), part("middle", 100)],
        roomy(300, 2000),
        {"large": OVERFLOW},
    ),
    "overflow is used before anything spills": Case(
        [part(str(number), 500) for number in range(8)],
        roomy(1000, 4000),
        {str(number): OVERFLOW for number in range(1, 8)},
    ),
    # The small parts fill the core to the last byte but one.
    "names of parts in overflow find room in the core": Case(
        [part("a", 41), part("b", 227), part("cart", 1000), part("logins", 1300)],
        roomy(300, 9000),
        {"b": OVERFLOW, "cart": OVERFLOW, "logins": OVERFLOW},
    ),
    "a part in overflow moves if a new part needs its room": Case(
        [part("a", 2600, place=OVERFLOW), part("b", 3000, place=OVERFLOW), part("new", 2900)],
        roomy(2700, 6000),
        {"b": OVERFLOW, "new": OVERFLOW},
    ),
    "without overflow the largest part spills": Case(
        [part("a", 300), part("b", 400), part("c", 200)], core_only(620), {"b": SPILLED}
    ),
    "the spill order counts before the size": Case(
        BY_ORDER, core_only(1060), {"prefs": SPILLED}, ORDER
    ),
    "the spill order is followed": Case(
        BY_ORDER, core_only(980), dict.fromkeys(ORDER, SPILLED), ORDER
    ),
    "after the spill order the largest part spills": Case(
        BY_ORDER, core_only(900), dict.fromkeys((*ORDER, "logins"), SPILLED), ORDER
    ),
    "a part for the server spills in any case": Case(
        [part("secret", 1, SERVER), part("a", 1)], roomy(4000, 4000), {"secret": SPILLED}
    ),
    "a part for cookies never spills": Case(
        [part("csrf", 900, COOKIE), part("a", 150)], core_only(1000), {"a": SPILLED}, ("csrf",)
    ),
    "a part smaller than its manifest entry does not spill": Case(
        [part("flash", 5), part("cart", 500)], core_only(400), {"cart": SPILLED}, ("flash",)
    ),
    "a part that was not recalled stays in the store": Case(
        [part("far", None, place=SPILLED), part("a", 10)], roomy(4000, 4000), {"far": SPILLED}
    ),
    "a spilled part does not return as soon as it fits": Case(
        RETURNING, core_only(800), {"cart": SPILLED}
    ),
    "a spilled part does not return into too little room": Case(
        RETURNING, core_only(RETURN_CORE - 1), {"cart": SPILLED}
    ),
    "a spilled part returns into ample room": Case(RETURNING, core_only(RETURN_CORE + 2), {}),
    "the part that left last returns first": Case(
        TWO_RETURNING, core_only(700), {"large": SPILLED}
    ),
    "all parts return into ample room": Case(TWO_RETURNING, core_only(1400), {}),
    "a part in overflow stays there": Case(IN_OVERFLOW, roomy(1100, 2000), {"b": OVERFLOW}),
    "a part in overflow returns if the core holds everything": Case(
        IN_OVERFLOW, roomy(1500, 2000), {}
    ),
}


def test_plans_are_as_expected() -> None:
    def check(case: Case) -> None:
        expected = {each.name: CORE for each in case.parts} | case.expected
        assert plan(case.parts, case.capacity, case.order, True) == expected

    check_each(CASES, check)


def test_session_that_does_not_fit_is_refused_with_the_sizes_of_its_parts() -> None:
    def too_large(parts: Sequence[PartSize], capacity: Capacity, can_spill: bool) -> str:
        with pytest.raises(SessionTooLarge) as caught:
            plan(parts, capacity, [], can_spill)
        error = caught.value
        assert isinstance(error, UsageError)
        assert error.parts == {each.name: each.size for each in parts}
        assert error.room == capacity.total
        return str(error)

    parts = [part("cart", 700), part("prefs", 300), part("csrf", 40)]
    message = too_large(parts, core_only(1000), False)
    assert "cart 700, prefs 300, csrf 40" in message
    assert "no storage service" in message
    for_cookies = [part("csrf", 900, COOKIE), part("a", 300)]
    assert "leave" in too_large(for_cookies, core_only(800), True)
    # Manifest entries fill the core, too.
    many = [part(f"part-{number}", 100, SERVER) for number in range(100)]
    too_large(many, roomy(1000, 9000), True)
    too_large(many, core_only(1000), True)
    assert "storage service" in too_large([part("a", 1, SERVER)], core_only(4000), False)


# --- any parts in any capacity --------------------------------------------------------------------

NAMES = ["a", "b", "csrf", "d" * 20, "e" * 100, "f", "g", "é"]
POLICIES = strategies.sampled_from([Policy.AUTO, Policy.AUTO, COOKIE, SERVER])


@strategies.composite
def any_parts(draw: strategies.DrawFn, unread: bool = True) -> list[PartSize]:
    parts = []
    for name in draw(strategies.lists(strategies.sampled_from(NAMES), unique=True)):
        entry = len(name.encode()) + 11
        if unread and draw(strategies.integers(0, 5)) == 0:
            policy = draw(strategies.sampled_from([Policy.AUTO, SERVER]))
            parts.append(PartSize(name, None, entry, policy, SPILLED))
        else:
            size = draw(strategies.integers(1, 60) | strategies.integers(1, 3000))
            place = draw(strategies.sampled_from([None, *Place]))
            parts.append(PartSize(name, size, entry, draw(POLICIES), place))
    return parts


@strategies.composite
def any_capacity(draw: strategies.DrawFn) -> Capacity:
    core = draw(strategies.integers(-50, 4000))
    overflow = draw(strategies.just(0) | strategies.integers(0, 12_000))
    both = draw(strategies.integers(-50, max(0, core) + overflow))
    return Capacity(core, overflow, both, OVERFLOW_ENTRY)


ORDERS: SearchStrategy[list[str]] = strategies.lists(strategies.sampled_from(NAMES), unique=True)


def plan_or_assume(
    parts: Sequence[PartSize], capacity: Capacity, order: Sequence[str]
) -> Mapping[str, Place]:
    """A plan with a store; without a plan the example is skipped."""
    try:
        return plan(parts, capacity, order, True)
    except SessionTooLarge:
        assume(False)
    raise AssertionError


def assert_carried(
    parts: Sequence[PartSize], places: Mapping[str, Place], capacity: Capacity
) -> None:
    """Each part has a place, and no capacity is exceeded."""
    assert set(places) == {each.name for each in parts}
    by_place = {place: [each for each in parts if places[each.name] is place] for place in Place}
    core, overflow = (sum(each.size or 0 for each in by_place[place]) for place in (CORE, OVERFLOW))
    entries = sum(each.entry for each in by_place[SPILLED])
    names = sum(len(each.name.encode()) + 2 for each in by_place[OVERFLOW])
    if not parts:
        return
    if by_place[OVERFLOW]:
        assert core + entries + names + OVERFLOW_ENTRY <= capacity.core
        assert overflow <= capacity.overflow
        assert core + overflow + entries + names + OVERFLOW_ENTRY <= capacity.both
    else:
        assert core + entries <= capacity.core


@in_shards
@given(any_parts(), any_capacity(), ORDERS, strategies.booleans())
def test_parts_are_placed_by_their_policy_within_the_capacity(
    parts: list[PartSize], capacity: Capacity, order: list[str], can_spill: bool
) -> None:
    try:
        places = plan(parts, capacity, order, can_spill)
    except SessionTooLarge:
        assert_hopeless(parts, capacity, can_spill)
        return
    assert_carried(parts, places, capacity)
    assert can_spill or not spilled(places)
    for each in parts:
        if each.policy is SERVER or each.size is None:
            assert places[each.name] is SPILLED
        elif each.policy is COOKIE:
            assert places[each.name] is not SPILLED


def frees_bytes(each: PartSize) -> bool:
    """Whether the cookies get smaller if it spills, including its manifest entry."""
    return (each.size or 0) > each.entry


def assert_hopeless(parts: Sequence[PartSize], capacity: Capacity, can_spill: bool) -> None:
    """Not even the core alone would do, with everything spilled that frees bytes."""
    least = 0
    for each in parts:
        if each.policy is SERVER or each.size is None:
            least += each.entry if can_spill else 1 << 20
        elif each.policy is Policy.AUTO and can_spill:
            least += min(each.entry, each.size)
        else:
            least += each.size
    assert least > capacity.core


@in_shards
@given(any_parts(unread=False), strategies.integers(0, 500), strategies.integers(0, 4000), ORDERS)
def test_parts_that_fit_into_overflow_never_spill(
    parts: list[PartSize], ample: int, core: int, order: list[str]
) -> None:
    fresh = [
        replace(each, policy=Policy.AUTO, place=place)
        for each, place in zip(parts, [CORE, OVERFLOW, None] * 3, strict=False)
    ]
    size = sum(each.size or 0 for each in fresh)
    names = sum(len(each.name.encode()) + 2 for each in fresh) + OVERFLOW_ENTRY
    capacity = Capacity(max(core, names), size + ample, size + names + ample, OVERFLOW_ENTRY)
    for can_spill in (True, False):
        assert not spilled(plan(fresh, capacity, order, can_spill))


@in_shards
@given(any_parts(), any_capacity(), ORDERS)
def test_parts_leave_in_the_spill_order_and_then_by_size(
    parts: list[PartSize], capacity: Capacity, order: list[str]
) -> None:
    fresh = [replace(each, place=None) for each in parts if each.size is not None]
    places = plan_or_assume(fresh, capacity, order)
    auto = [each for each in fresh if each.policy is Policy.AUTO and frees_bytes(each)]
    ranks = {name: rank for rank, name in enumerate(order)}
    queue = sorted(auto, key=lambda each: (ranks.get(each.name, len(order)), -(each.size or 0)))
    left = [places[each.name] is SPILLED for each in queue]
    assert left == sorted(left, reverse=True)


@in_shards
@given(any_parts(), strategies.integers(0, 6000), ORDERS)
def test_no_more_spills_than_necessary(parts: list[PartSize], core: int, order: list[str]) -> None:
    fresh = [replace(each, place=None) for each in parts if each.size is not None]
    places = plan_or_assume(fresh, core_only(core), order)
    ranks = {name: rank for rank, name in enumerate(order)}
    left = [each for each in fresh if each.policy is Policy.AUTO and places[each.name] is SPILLED]
    if left:
        # Of parts of one size, the later one.
        left.sort(key=lambda each: (ranks.get(each.name, len(order)), -(each.size or 0)))
        last = left[-1]
        used = sum(each.entry if places[each.name] is SPILLED else each.size or 0 for each in fresh)
        assert used - last.entry + (last.size or 0) > core


@in_shards
@given(any_parts(unread=False), any_capacity(), ORDERS)
def test_second_plan_moves_nothing(
    parts: list[PartSize], capacity: Capacity, order: list[str]
) -> None:
    first = plan_or_assume(parts, capacity, order)
    again = plan_or_assume(moved(parts, first), capacity, order)
    # Parts that return into ample room return at once, not one by one.
    assert plan(moved(parts, again), capacity, order, True) == again


@in_shards
@given(
    any_parts(),
    strategies.lists(strategies.integers(1, 300), max_size=40),
    any_capacity(),
    ORDERS,
    strategies.booleans(),
    strategies.lists(
        strategies.tuples(strategies.integers(0, 90), strategies.integers(0, 1500), POLICIES),
        max_size=40,
    ),
)
def test_what_a_reserve_suffices_for_has_a_place(
    few: list[PartSize],
    sizes: list[int],
    capacity: Capacity,
    order: list[str],
    can_spill: bool,
    assigned: list[tuple[int, int, Policy]],
) -> None:
    parts = {each.name: each for each in few}
    parts |= {f"p{number}": part(f"p{number}", size) for number, size in enumerate(sizes)}
    reserve = find_reserve([*parts.values()], capacity, order, can_spill)
    if reserve is None:
        return
    plan([*parts.values()], capacity, order, can_spill)
    for number, size, policy in assigned:
        name = [*parts, f"p{number}"][number % (len(parts) + 1)]
        if (policy is SERVER and not can_spill) or not reserve.take(name, size):
            continue
        name_bytes = len(name.encode())
        before = parts.get(name, PartSize(name, 0, name_bytes + 12, policy, None))
        parts[name] = replace(before, size=size + name_bytes + 10)
        places = plan([*parts.values()], capacity, order, can_spill)
        assert_carried([*parts.values()], places, capacity)


def test_reserve_of_many_parts_saves_most_checks() -> None:
    many, checks = list[PartSize](), 0
    capacity, reserve = roomy(2700, 5500), None
    for number in range(195):
        if reserve is None or not reserve.take(f"p{number:03}", 100):
            checks += 1
            reserve = find_reserve([*many, part(f"p{number:03}", 107)], capacity, (), True)
            assert reserve is not None
        many.append(part(f"p{number:03}", 107))
    assert checks < 15
    assert spilled(plan(many, capacity, (), True))


def settled(
    parts: list[PartSize], rooms: Sequence[Capacity], order: Sequence[str]
) -> list[set[str]]:
    """The spilled parts in each of `rooms`, after some rounds through all of them."""
    seen: list[set[str]] = []
    for _ in range(4):
        seen = []
        for capacity in rooms:
            places = plan_or_assume(parts, capacity, order)
            parts = moved(parts, places)
            seen.append(spilled(places))
    return seen


@strategies.composite
def two_capacities(draw: strategies.DrawFn) -> list[Capacity]:
    """Those of a browser whose foreign cookies come and go: at most a seventh differs."""
    share = draw(strategies.floats(0.86, 1))
    if draw(strategies.booleans()):
        core = draw(strategies.integers(100, 6000))
        return [core_only(int(core * share)), core_only(core)]
    core, overflow = draw(strategies.integers(1000, 4000)), draw(strategies.integers(2000, 12_000))
    large = roomy(core, overflow)
    both = int((core + overflow) * share)
    return [replace(large, overflow=int(overflow * share), both=both), large]


@in_shards
@given(any_parts(unread=False), two_capacities(), ORDERS)
def test_no_part_flaps_when_foreign_cookies_come_and_go(
    parts: list[PartSize], rooms: list[Capacity], order: list[str]
) -> None:
    in_small, in_large = settled(parts, rooms, order)
    assert in_small == in_large

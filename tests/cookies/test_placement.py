"""Placing: every part gets a place, no room is exceeded, and nothing wanders without a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings, strategies
from hypothesis.strategies import SearchStrategy

from sealedstate._cookies.placement import RETURN_SHARE, Capacity, PartSize, plan, policies_of
from sealedstate._wire.record import Place, Policy
from sealedstate.errors import SessionTooLarge, UsageError
from tests.support.shards import shards

OVERFLOW_ENTRY = 31
Places = dict[str, Place]


def item(
    name: str, size: int | None, policy: Policy = Policy.AUTO, place: Place | None = None
) -> PartSize:
    return PartSize(name, size, len(name) + 10, policy, place)


def core_only(core: int) -> Capacity:
    return Capacity(core, 0, 0, OVERFLOW_ENTRY)


def roomy(core: int, overflow: int) -> Capacity:
    return Capacity(core, overflow, core + overflow, OVERFLOW_ENTRY)


def moved(items: Sequence[PartSize], places: Mapping[str, Place]) -> list[PartSize]:
    """The items of the next request, after a save by this plan; what spilled is recalled."""
    return [replace(each, place=places[each.name]) for each in items]


def spilled(places: Mapping[str, Place]) -> set[str]:
    return {name for name, place in places.items() if place is Place.SPILLED}


@pytest.fixture(scope="module", params=shards(10))
def shard() -> None:
    """Each is a hundred examples of whatever uses it."""


def in_shards(test: Callable[..., None]) -> Callable[..., None]:
    marked: Callable[..., None] = pytest.mark.usefixtures("shard")(test)
    return settings(max_examples=100, deadline=None)(marked)


# --- what a plan is -------------------------------------------------------------------------------


def test_what_fits_stays_in_the_core() -> None:
    items = [item("a", 100), item("b", 200), item("c", 300)]
    assert plan(items, roomy(600, 5000), [], True) == dict.fromkeys("abc", Place.CORE)


def test_what_is_too_much_for_the_core_overflows_the_largest_first() -> None:
    items = [item("large", 1000), item("small", 10), item("middle", 100)]
    assert plan(items, roomy(300, 2000), [], True) == {
        "large": Place.OVERFLOW,
        "small": Place.CORE,
        "middle": Place.CORE,
    }


def test_overflow_is_used_before_anything_spills() -> None:
    items = [item(str(number), 500) for number in range(8)]
    places = plan(items, roomy(1000, 4000), [], True)
    assert spilled(places) == set()


def test_the_names_of_what_overflows_find_room_in_the_core() -> None:
    # The small ones fill the core to the last byte but one.
    items = [item("a", 41), item("b", 227), item("cart", 1000), item("logins", 1300)]
    places = plan(items, roomy(300, 9000), [], False)
    assert places["cart"] is places["logins"] is Place.OVERFLOW
    assert places["a"] is Place.CORE


def test_what_overflows_moves_where_something_new_needs_its_room() -> None:
    items = [
        item("a", 2600, place=Place.OVERFLOW),
        item("b", 3000, place=Place.OVERFLOW),
        item("new", 2900),
    ]
    assert plan(items, roomy(2700, 6000), [], False) == {
        "a": Place.CORE,
        "b": Place.OVERFLOW,
        "new": Place.OVERFLOW,
    }


def test_without_overflow_the_largest_spills_first() -> None:
    items = [item("a", 300), item("b", 400), item("c", 200)]
    assert plan(items, core_only(620), [], True) == {
        "a": Place.CORE,
        "b": Place.SPILLED,
        "c": Place.CORE,
    }


def test_what_the_spill_order_names_goes_before_the_largest() -> None:
    items = [item("cart", 100), item("prefs", 100), item("logins", 900), item("csrf", 40)]
    order = ["prefs", "cart"]
    assert spilled(plan(items, core_only(1060), order, True)) == {"prefs"}
    assert spilled(plan(items, core_only(980), order, True)) == {"prefs", "cart"}
    assert spilled(plan(items, core_only(900), order, True)) == {"prefs", "cart", "logins"}


def test_a_part_for_the_server_spills_even_into_an_empty_core() -> None:
    items = [item("secret", 1, Policy.SERVER), item("a", 1)]
    assert plan(items, roomy(4000, 4000), [], True) == {
        "secret": Place.SPILLED,
        "a": Place.CORE,
    }


def test_a_part_for_cookies_never_spills_whatever_the_spill_order_says() -> None:
    items = [item("csrf", 900, Policy.COOKIE), item("a", 150)]
    assert plan(items, core_only(1000), ["csrf"], True) == {
        "csrf": Place.CORE,
        "a": Place.SPILLED,
    }


def test_a_part_smaller_than_its_entry_in_the_manifest_is_not_spilled() -> None:
    items = [item("flash", 5), item("cart", 500)]
    assert spilled(plan(items, core_only(400), ["flash"], True)) == {"cart"}


def test_a_part_that_was_not_recalled_stays_where_it_is() -> None:
    items = [item("far", None, place=Place.SPILLED), item("a", 10)]
    assert plan(items, roomy(4000, 4000), [], True)["far"] is Place.SPILLED


def test_nothing_to_place_is_placed_in_no_room() -> None:
    assert plan([], core_only(0), [], False) == {}


# --- too large --------------------------------------------------------------------------------


def too_large(items: Sequence[PartSize], room: Capacity, can_spill: bool) -> SessionTooLarge:
    with pytest.raises(SessionTooLarge) as caught:
        plan(items, room, [], can_spill)
    return caught.value


def test_a_session_that_does_not_fit_is_refused_with_its_sizes_part_by_part() -> None:
    items = [item("cart", 700), item("prefs", 300), item("csrf", 40)]
    error = too_large(items, core_only(1000), can_spill=False)
    assert isinstance(error, UsageError)
    assert error.parts == {"cart": 700, "prefs": 300, "csrf": 40}
    assert error.room == 1000
    assert "cart 700, prefs 300, csrf 40" in str(error)
    assert "no storage service" in str(error)


def test_cookie_parts_that_do_not_fit_are_refused_although_there_is_a_store() -> None:
    items = [item("csrf", 900, Policy.COOKIE), item("a", 300)]
    error = too_large(items, core_only(800), can_spill=True)
    assert error.parts == {"csrf": 900, "a": 300}
    assert "leave" in str(error)


def test_so_many_spilled_parts_that_their_entries_do_not_fit_are_refused() -> None:
    items = [item(f"part-{number}", 100, Policy.SERVER) for number in range(100)]
    assert too_large(items, roomy(1000, 9000), can_spill=True).room == 10_000
    assert len(too_large(items, core_only(1000), can_spill=True).parts) == 100


def test_a_part_for_the_server_needs_a_store() -> None:
    assert "storage service" in str(
        too_large([item("a", 1, Policy.SERVER)], core_only(4000), can_spill=False)
    )


def test_policies_are_read_from_their_words() -> None:
    assert policies_of({"a": "cookie", "b": "server", "c": "auto"}) == {
        "a": Policy.COOKIE,
        "b": Policy.SERVER,
        "c": Policy.AUTO,
    }
    with pytest.raises(ValueError):
        policies_of({"a": "browser"})


# --- any items in any room ----------------------------------------------------------------------

NAMES = ["a", "b", "csrf", "d" * 20, "e" * 100, "f", "g", "é"]
POLICIES = strategies.sampled_from([Policy.AUTO, Policy.AUTO, Policy.COOKIE, Policy.SERVER])


@strategies.composite
def any_items(draw: strategies.DrawFn, unread: bool = True) -> list[PartSize]:
    items = []
    for name in draw(strategies.lists(strategies.sampled_from(NAMES), unique=True)):
        entry = len(name.encode()) + 11
        if unread and draw(strategies.integers(0, 5)) == 0:
            policy = draw(strategies.sampled_from([Policy.AUTO, Policy.SERVER]))
            items.append(PartSize(name, None, entry, policy, Place.SPILLED))
        else:
            size = draw(strategies.integers(1, 60) | strategies.integers(1, 3000))
            place = draw(strategies.sampled_from([None, *Place]))
            items.append(PartSize(name, size, entry, draw(POLICIES), place))
    return items


@strategies.composite
def any_room(draw: strategies.DrawFn) -> Capacity:
    core = draw(strategies.integers(-50, 4000))
    overflow = draw(strategies.just(0) | strategies.integers(0, 12_000))
    both = draw(strategies.integers(-50, max(0, core) + overflow))
    return Capacity(core, overflow, both, OVERFLOW_ENTRY)


ORDERS: SearchStrategy[list[str]] = strategies.lists(strategies.sampled_from(NAMES), unique=True)


def assert_carried(items: Sequence[PartSize], places: Mapping[str, Place], room: Capacity) -> None:
    """That the plan places every item and no room is exceeded."""
    assert set(places) == {each.name for each in items}
    by_place = {place: [each for each in items if places[each.name] is place] for place in Place}
    core, overflow = (
        sum(each.size or 0 for each in by_place[place]) for place in (Place.CORE, Place.OVERFLOW)
    )
    entries = sum(each.entry for each in by_place[Place.SPILLED])
    names = sum(len(each.name.encode()) + 2 for each in by_place[Place.OVERFLOW])
    if not items:
        return
    if by_place[Place.OVERFLOW]:
        assert core + entries + names + OVERFLOW_ENTRY <= room.core
        assert overflow <= room.overflow
        assert core + overflow + entries + names + OVERFLOW_ENTRY <= room.both
    else:
        assert core + entries <= room.core


@in_shards
@given(any_items(), any_room(), ORDERS, strategies.booleans())
def test_every_part_is_placed_by_its_policy_and_no_room_is_exceeded(
    items: list[PartSize], room: Capacity, order: list[str], can_spill: bool
) -> None:
    try:
        places = plan(items, room, order, can_spill)
    except SessionTooLarge:
        assert_hopeless(items, room, can_spill)
        return
    assert_carried(items, places, room)
    assert can_spill or not spilled(places)
    for each in items:
        if each.policy is Policy.SERVER or each.size is None:
            assert places[each.name] is Place.SPILLED
        elif each.policy is Policy.COOKIE:
            assert places[each.name] is not Place.SPILLED


def frees_room(each: PartSize) -> bool:
    """Whether spilling it makes the cookies smaller, its entry in the manifest counted."""
    return (each.size or 0) > each.entry


def assert_hopeless(items: Sequence[PartSize], room: Capacity, can_spill: bool) -> None:
    """That not even the core alone would do, with everything spilled that it helps to spill."""
    least = 0
    for each in items:
        if each.policy is Policy.SERVER or each.size is None:
            least += each.entry if can_spill else 1 << 20
        elif each.policy is Policy.AUTO and can_spill:
            least += min(each.entry, each.size)
        else:
            least += each.size
    assert least > room.core


@in_shards
@given(any_items(unread=False), strategies.integers(0, 500), strategies.integers(0, 4000), ORDERS)
def test_what_fits_into_overflow_as_it_is_never_spills(
    items: list[PartSize], ample: int, core: int, order: list[str]
) -> None:
    fresh = [
        replace(each, policy=Policy.AUTO, place=place)
        for each, place in zip(items, [Place.CORE, Place.OVERFLOW, None] * 3, strict=False)
    ]
    size = sum(each.size or 0 for each in fresh)
    names = sum(len(each.name.encode()) + 2 for each in fresh) + OVERFLOW_ENTRY
    room = Capacity(max(core, names), size + ample, size + names + ample, OVERFLOW_ENTRY)
    for can_spill in (True, False):
        assert not spilled(plan(fresh, room, order, can_spill))


@in_shards
@given(any_items(), any_room(), ORDERS)
def test_parts_leave_in_the_spill_order_and_then_the_largest_first(
    items: list[PartSize], room: Capacity, order: list[str]
) -> None:
    fresh = [replace(each, place=None) for each in items if each.size is not None]
    try:
        places = plan(fresh, room, order, True)
    except SessionTooLarge:
        return
    auto = [each for each in fresh if each.policy is Policy.AUTO and frees_room(each)]
    ranks = {name: rank for rank, name in enumerate(order)}
    queue = sorted(auto, key=lambda each: (ranks.get(each.name, len(order)), -(each.size or 0)))
    left = [places[each.name] is Place.SPILLED for each in queue]
    assert left == sorted(left, reverse=True)


@in_shards
@given(any_items(), strategies.integers(0, 6000), ORDERS)
def test_no_more_is_spilled_than_must_be(
    items: list[PartSize], core: int, order: list[str]
) -> None:
    fresh = [replace(each, place=None) for each in items if each.size is not None]
    try:
        places = plan(fresh, core_only(core), order, True)
    except SessionTooLarge:
        return
    ranks = {name: rank for rank, name in enumerate(order)}
    left = [
        each for each in fresh if each.policy is Policy.AUTO and places[each.name] is Place.SPILLED
    ]
    if left:
        last = max(left, key=lambda each: (ranks.get(each.name, len(order)), -(each.size or 0)))
        used = sum(
            each.entry if places[each.name] is Place.SPILLED else each.size or 0 for each in fresh
        )
        assert used - last.entry + (last.size or 0) > core


@in_shards
@given(any_items(unread=False), any_room(), ORDERS)
def test_planning_again_moves_nothing(
    items: list[PartSize], room: Capacity, order: list[str]
) -> None:
    try:
        first = plan(items, room, order, True)
        again = plan(moved(items, first), room, order, True)
    except SessionTooLarge:
        assume(False)
    # What ample room calls back comes back at once, not one by one.
    assert plan(moved(items, again), room, order, True) == again


# --- hysteresis ---------------------------------------------------------------------------------


def test_what_has_spilled_comes_back_only_into_ample_room() -> None:
    items = [item("cart", 500, place=Place.SPILLED), item("a", 300, place=Place.CORE)]
    assert plan(items, core_only(800), [], True)["cart"] is Place.SPILLED
    tight = int(800 / RETURN_SHARE)
    assert plan(items, core_only(tight - 1), [], True)["cart"] is Place.SPILLED
    assert plan(items, core_only(tight + 2), [], True)["cart"] is Place.CORE


def test_what_left_last_comes_back_first() -> None:
    items = [
        item("large", 900, place=Place.SPILLED),
        item("small", 100, place=Place.SPILLED),
        item("a", 100),
    ]
    assert spilled(plan(items, core_only(700), [], True)) == {"large"}
    assert spilled(plan(items, core_only(1400), [], True)) == set()


def test_what_overflows_stays_there_while_the_core_does_not_hold_it_all() -> None:
    items = [item("a", 400), item("b", 500, place=Place.OVERFLOW), item("c", 600)]
    assert plan(items, roomy(1100, 2000), [], True)["b"] is Place.OVERFLOW
    assert plan(items, roomy(1500, 2000), [], True)["b"] is Place.CORE


def settled(
    items: list[PartSize], rooms: Sequence[Capacity], order: Sequence[str]
) -> list[set[str]]:
    """What is spilled in each of `rooms` in turn, once the first turns have settled it."""
    seen: list[set[str]] = []
    for _ in range(4):
        seen = []
        for room in rooms:
            places = plan(items, room, order, True)
            items = moved(items, places)
            seen.append(spilled(places))
    return seen


@in_shards
@given(any_items(unread=False), strategies.integers(100, 6000), strategies.floats(0.86, 1), ORDERS)
def test_foreign_cookies_that_come_and_go_make_no_part_flap(
    items: list[PartSize], large: int, share: float, order: list[str]
) -> None:
    rooms = [core_only(int(large * share)), core_only(large)]
    try:
        small_room, large_room = settled(items, rooms, order)
    except SessionTooLarge:
        assume(False)
    assert small_room == large_room


@in_shards
@given(
    any_items(unread=False),
    strategies.integers(1000, 4000),
    strategies.integers(2000, 12_000),
    strategies.floats(0.86, 1),
    ORDERS,
)
def test_nothing_flaps_where_there_is_overflow(
    items: list[PartSize], core: int, overflow: int, share: float, order: list[str]
) -> None:
    large = roomy(core, overflow)
    small = replace(large, overflow=int(overflow * share), both=int((core + overflow) * share))
    try:
        in_small, in_large = settled(items, [small, large], order)
    except SessionTooLarge:
        assume(False)
    assert in_small == in_large

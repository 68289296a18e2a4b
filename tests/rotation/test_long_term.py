"""Long-term keys: rotation, announcement and destruction."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sealedstate.rotation.ring import Ring, RingKey, Schedule
from sealedstate.rotation.transitions import (
    create_ring,
    destroy_long_term,
    obsolete_long_term,
    rotate,
    rotate_long_term,
)
from tests.support.rings import DAY, randomness

NOW = 1_800_000_000
DAILY = Schedule(DAY, 900, DAY, 60)


def a_ring() -> Ring:
    return create_ring(DAILY, NOW, randomness("lasting"))


def long_term_primary(ring: Ring, now: int) -> bytes:
    return ring.keyring().long_term.primary(now).kid


def test_new_ring_has_a_separate_long_term_key() -> None:
    ring = a_ring()
    assert len(ring.long_term) == 1
    assert long_term_primary(ring, NOW) == ring.long_term[0].kid
    assert ring.long_term[0].secret not in {ring.keys[0].secret, ring.lookup}
    assert ring.keyring().find(ring.long_term[0].kid) is None


def test_long_term_key_is_announced_before_it_seals_and_its_predecessor_never_expires() -> None:
    ring = rotate_long_term(a_ring(), NOW + DAY, randomness())
    new, old = (key.kid for key in ring.long_term)
    active_from = NOW + DAY + DAILY.announce
    assert [long_term_primary(ring, at) for at in (active_from - 1, active_from)] == [old, new]
    keyring = ring.keyring().long_term
    aged = keyring.find(old)
    assert aged is not None
    assert aged.expires_at is None
    assert keyring.may_have_sealed(aged, active_from + 1000 * DAY)  # by a node that lags behind
    assert not keyring.may_have_sealed(aged, NOW - 2 * DAILY.skew - 1)


def test_repeated_rotation_adds_one_long_term_key() -> None:
    ring = rotate_long_term(a_ring(), NOW, randomness())
    assert rotate_long_term(ring, NOW, randomness("again")) is ring


def test_long_term_key_of_the_far_future_does_not_stop_the_next_rotation() -> None:
    ring = rotate_long_term(a_ring(), NOW + 100 * DAY, randomness("ahead"))
    ring = rotate_long_term(ring, NOW, randomness("right"))
    assert long_term_primary(ring, NOW + DAILY.announce) == ring.long_term[1].kid


def test_ring_without_a_long_term_key_gets_one_at_its_next_rotation() -> None:
    bare = Ring("0" * 16, 1, NOW, DAILY, a_ring().keys)
    ring = rotate(bare, DAILY, NOW + DAY, randomness())
    assert [key.activates_at for key in ring.long_term] == [NOW + DAY + DAILY.announce]


@given(st.lists(st.integers(0, 3 * DAY), max_size=12), st.data())
def test_long_term_key_is_destroyed_only_once_no_node_can_seal_with_it(
    pauses: list[int], data: st.DataObject
) -> None:
    ring, now = a_ring(), NOW
    for pause in pauses:
        now += pause
        deed = data.draw(st.sampled_from(["rotate", "rotate long-term", "destroy"]))
        before = ring
        if deed == "rotate":
            ring = rotate(ring, DAILY, now, randomness(str(now)))
        elif deed == "rotate long-term":
            ring = rotate_long_term(ring, now, randomness(str(now)))
        else:
            ring = destroy_long_term(ring, {key.kid for key in ring.long_term}, now)
        gone = {key.kid for key in before.long_term} - {key.kid for key in ring.long_term}
        # A node with the previous ring, behind by the skew, seals with none of them.
        late = now - DAILY.announce - DAILY.skew
        assert not gone or long_term_primary(before, late) not in gone
        assert deed == "destroy" or not gone
        assert ring.long_term
        long_term_primary(ring, now)


def test_clock_that_is_ahead_destroys_no_long_term_key() -> None:
    ring = rotate_long_term(a_ring(), NOW + DAY, randomness())
    assert obsolete_long_term(ring, NOW + 10 * DAY) == []
    ring = rotate(ring, DAILY, NOW + 2 * DAY, randomness())
    assert obsolete_long_term(ring, NOW + 2 * DAY) == [ring.long_term[1]]


def test_long_term_keys_are_ordered_with_the_newest_first() -> None:
    ring = rotate_long_term(a_ring(), NOW + DAY, randomness())
    dates = [key.activates_at for key in ring.long_term]
    assert dates == sorted(dates, reverse=True)
    assert isinstance(ring.long_term[0], RingKey)

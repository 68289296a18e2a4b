"""Values refuse what they can't carry, and two sets become one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate.errors import UnsupportedValue
from sealedstate.sso import Authentication, NameID, ServiceLogin
from sealedstate.sso.logins import Derivation, Derived, keep_latest, merge_sets
from tests.support.login_makers import NOW, SP, a_login

SETS = st.frozensets(st.integers(0, 12))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Authentication("\ud800", NOW, 1),
        lambda: Authentication("m", -1, 1),
        lambda: Authentication("m", NOW, -1),
        lambda: Authentication("m", 1 << 40, 1),
        lambda: Authentication("m", True, 1),
        lambda: NameID("\udfff"),
        lambda: NameID("x", format="\ud800"),
        lambda: ServiceLogin("\ud800", "m", NameID("x"), None, NOW),
        lambda: ServiceLogin(SP, "m", NameID("x"), "\ud800", NOW),
        lambda: ServiceLogin(SP, "m", NameID("x"), None, 1 << 40),
    ],
)
def test_what_can_t_be_kept_is_refused_where_it_is_made(make: Any) -> None:
    with pytest.raises(UnsupportedValue):
        make()


def test_other_types_are_refused_where_they_are_given() -> None:
    anything: Any = b"x"
    with pytest.raises(UnsupportedValue):
        NameID(anything)
    with pytest.raises(UnsupportedValue):
        ServiceLogin(SP, "m", anything, None, NOW)
    with pytest.raises(UnsupportedValue):
        Authentication("m", anything, 1)


@pytest.mark.parametrize(
    "given_",
    [
        (Derivation.SUBJECT, b"1234"),
        (Derivation.DERIVED, b"1234"),
        (Derivation.PAIRWISE, b"1234", b"1234"),
    ],
)
def test_what_is_made_again_names_its_key_and_no_other(given_: Any) -> None:
    with pytest.raises(ValueError):
        Derived(*given_)


def test_reprs_show_no_name_of_a_user() -> None:
    assert "secret" not in repr(a_login(name="secret-name", index="secret-index"))


def test_an_authentication_counts_until_it_expires_and_while_it_is_young_enough() -> None:
    proof = Authentication("m", 1000, 100)
    assert proof.expires_at == 1100
    assert proof.is_fresh(1099)
    assert not proof.is_fresh(1100)
    assert proof.is_fresh(1060, within=60)
    assert not proof.is_fresh(1061, within=60)


def test_an_authentication_by_a_clock_that_is_far_ahead_does_not_count_yet() -> None:
    proof = Authentication("m", 1000, 100)
    assert proof.is_fresh(940, within=0)
    assert not proof.is_fresh(939, within=0)
    assert not proof.is_fresh(939)


@given(SETS, SETS, SETS)
def test_no_addition_is_lost_and_a_removal_holds(
    before: frozenset[int], theirs: frozenset[int], ours: frozenset[int]
) -> None:
    merged = merge_sets(before, theirs, ours)
    assert merged == merge_sets(before, ours, theirs)
    assert (theirs - before) | (ours - before) <= merged
    assert merged.isdisjoint((before - theirs) | (before - ours))
    assert before & theirs & ours <= merged <= before | theirs | ours


@given(SETS, SETS)
def test_one_writer_alone_gets_what_it_wrote(before: frozenset[int], ours: frozenset[int]) -> None:
    assert merge_sets(before, before, ours) == ours


@given(SETS, SETS)
def test_where_the_past_is_unknown_nothing_counts_as_removed(
    theirs: frozenset[int], ours: frozenset[int]
) -> None:
    assert merge_sets(None, theirs, ours) == theirs | ours


def test_a_login_renewed_by_one_survives_its_removal_by_another() -> None:
    old, renewed = a_login(time=NOW), a_login(time=NOW + 5)
    assert merge_sets({old}, frozenset[ServiceLogin](), {renewed}) == {renewed}


def test_of_the_same_login_the_latest_stays() -> None:
    early, late, other = a_login(time=NOW), a_login(time=NOW + 60), a_login(index=None)
    assert keep_latest([late, early, other]) == {late, other}

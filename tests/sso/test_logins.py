"""Values refuse what they can't carry, and two sets become one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate.errors import UnsupportedValue
from sealedstate.sso import Authentication, NameID, ServiceLogin
from sealedstate.sso.logins import Derivation, Derived, keep_latest, merge_sets
from tests.support.identity_providers import NOW, SP, a_login

SETS = st.frozensets(st.integers(0, 12))
NOT_TEXT: Any = b"x"


def test_unsupported_values_are_refused_and_named() -> None:
    name = NameID("x")
    makers: list[tuple[str, Any]] = [
        ("Authentication.method", lambda: Authentication("\ud800", NOW, 1)),
        ("Authentication.time", lambda: Authentication("m", -1, 1)),
        ("Authentication.time", lambda: Authentication("m", 1 << 40, 1)),
        ("Authentication.time", lambda: Authentication("m", True, 1)),
        ("Authentication.time", lambda: Authentication("m", NOT_TEXT, 1)),
        ("Authentication.duration", lambda: Authentication("m", NOW, -1)),
        ("NameID.value", lambda: NameID("\udfff")),
        ("NameID.value", lambda: NameID(NOT_TEXT)),
        ("NameID.format", lambda: NameID("x", format="\ud800")),
        ("NameID.name_qualifier", lambda: NameID("x", name_qualifier="\ud800")),
        ("NameID.sp_name_qualifier", lambda: NameID("x", sp_name_qualifier="\ud800")),
        ("ServiceLogin.entity_id", lambda: ServiceLogin("\ud800", "m", name, None, NOW)),
        ("ServiceLogin.method", lambda: ServiceLogin(SP, "\ud800", name, None, NOW)),
        ("ServiceLogin.name_id", lambda: ServiceLogin(SP, "m", NOT_TEXT, None, NOW)),
        ("ServiceLogin.session_index", lambda: ServiceLogin(SP, "m", name, "\ud800", NOW)),
        ("ServiceLogin.time", lambda: ServiceLogin(SP, "m", name, None, 1 << 40)),
    ]
    for path, make in makers:
        with pytest.raises(UnsupportedValue) as refused:
            make()
        assert refused.value.path == path


def test_a_placeholder_has_the_key_and_mark_of_its_derivation() -> None:
    wrong: list[Any] = [
        (Derivation.SUBJECT, b"1234"),
        (Derivation.DERIVED, b"1234"),
        (Derivation.PAIRWISE, b"1234", b"1234"),
    ]
    for arguments in wrong:
        with pytest.raises(ValueError):
            Derived(*arguments)


def test_reprs_show_no_name_of_a_user() -> None:
    assert "secret" not in repr(a_login(name="secret-name", index="secret-index"))


def test_an_authentication_counts_from_its_time_until_it_expires() -> None:
    proof = Authentication("m", 1000, 100)
    assert proof.expires_at == 1100
    assert proof.is_fresh(1099)
    assert not proof.is_fresh(1100)
    assert proof.is_fresh(1060, within=60)
    assert not proof.is_fresh(1061, within=60)
    # A node's clock may be a minute ahead.
    assert proof.is_fresh(940, within=0)
    assert not proof.is_fresh(939, within=0)
    assert not proof.is_fresh(939)


@given(SETS, SETS, SETS)
def test_a_merge_loses_no_addition_and_keeps_removals(
    base: frozenset[int], remote: frozenset[int], local: frozenset[int]
) -> None:
    merged = merge_sets(base, remote, local)
    assert merged == merge_sets(base, local, remote)
    assert (remote - base) | (local - base) <= merged
    assert merged.isdisjoint((base - remote) | (base - local))
    assert base & remote & local <= merged <= base | remote | local
    assert merge_sets(base, base, local) == local
    assert merge_sets(None, remote, local) == remote | local


def test_a_renewed_login_survives_its_removal_by_another_request() -> None:
    old, renewed = a_login(time=NOW), a_login(time=NOW + 5)
    assert merge_sets({old}, frozenset[ServiceLogin](), {renewed}) == {renewed}


def test_the_latest_of_equal_logins_stays() -> None:
    early, late, other = a_login(time=NOW), a_login(time=NOW + 60), a_login(index=None)
    assert keep_latest([late, early, other]) == {late, other}

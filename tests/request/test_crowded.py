"""What gives when the cookies of others leave little room: never a login, never in silence."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import pytest

from sealedstate import Keeper, Session, SessionTooLarge
from sealedstate._cookies.header import field_bytes
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock, Jar, keeper
from tests.support.tables import check_each

CART = {"tea": "t" * 470}  # 490 bytes, encoded
# What gunicorn, nginx and Apache take in one Cookie line.
WALL = 8_179
# The Set-Cookie lines with which an application deletes the state of 45 abandoned sign-ins.
DELETIONS = [
    f"state-{number:02}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax" for number in range(45)
]
DELETION_BYTES = sum(map(field_bytes, DELETIONS))


def foreign(size: int) -> str:
    return f"theme={'d' * (size - len('theme='))}" if size else ""


def header_of(jar: Jar, size: int) -> str:
    """What a browser sends that has `size` bytes of foreign cookies, too."""
    return "; ".join(filter(None, (foreign(size), jar.header())))


def save(door: Keeper, session: Session, jar: Jar, other_bytes: int = 0) -> list[str]:
    lines = door.save(session, other_bytes)
    jar.receive(lines)
    return lines


def jar_of(door: Keeper, subject: str | None = "alice", **parts: Any) -> Jar:
    session, jar = door.session(), Jar()
    session.subject = subject
    session.update(parts)
    save(door, session, jar)
    return jar


# --- beside the foreign cookies of a request ------------------------------------------------------


def test_small_cart_is_saved_beside_seven_kilobytes_of_foreign_cookies() -> None:
    for size in (6_900, 7_000, 7 * 1024):
        for subject in (None, "alice"):
            door = keeper(Clock())
            jar = Jar() if subject is None else jar_of(door, subject)
            session = door.session(header_of(jar, size))
            session["cart"] = CART
            assert save(door, session, jar)
            assert len(header_of(jar, size)) <= WALL
            session = door.session(header_of(jar, size))
            assert (session.subject, session["cart"]) == (subject, CART)


def test_part_is_saved_or_refused_where_it_is_assigned_beside_any_cookies() -> None:
    refused = 0
    for size in range(0, 20_000, 97):
        door = keeper(Clock())
        jar = jar_of(door)
        session = door.session(header_of(jar, size))
        try:
            session["cart"] = CART
        except SessionTooLarge as error:
            refused += error.is_crowded and "cart" in error.parts and "cart" not in session
            assert door.save(session) == []
        else:
            assert save(door, session, jar)
            assert door.session(header_of(jar, size))["cart"] == CART
            # Nothing is sent with which the browser would get no answer any more.
            assert len(header_of(jar, size)) <= WALL or size > 11_000
    assert 0 < refused < 60


def test_session_of_unchanged_size_is_saved_beside_any_cookies_and_lines() -> None:
    door = keeper(Clock())
    for size in (0, 5_000, 7_600, 8_100, 9_000, 11_000, 20_000, 100_000):
        jar = jar_of(door, cart=CART, large="x" * 900, n=100)
        for number in range(101, 105):
            session = door.session(header_of(jar, size))
            session["n"] = number
            assert save(door, session, jar, 0 if number % 2 else 50_000)
        assert dict(door.session(jar.header())) == {"cart": CART, "large": "x" * 900, "n": 104}


def test_request_that_carried_far_more_than_the_profile_allows_may_carry_more() -> None:
    door = keeper(Clock())
    for size in (20_000, 66_000, 250_000):
        jar = jar_of(door)
        session = door.session(header_of(jar, size))
        session["cart"] = CART
        assert save(door, session, jar)


def test_change_inside_a_value_that_has_no_room_is_not_sent_and_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    door = keeper(Clock())
    jar = jar_of(door, cart=[])
    session = door.session(header_of(jar, 7_900))
    cart: Any = session["cart"]
    cart.append("x" * 490)
    with pytest.raises(SessionTooLarge):
        session.check_size()
    with caplog.at_level(logging.WARNING):
        assert door.save(session) == []
    assert door.counts["no-room"] == 1
    assert "7900 bytes of other cookies" in caplog.text
    assert door.session(jar.header())["cart"] == []
    # The application's own doing is an error, whatever comes with the request.
    cart.append("x" * 3000)
    with pytest.raises(SessionTooLarge) as caught:
        door.save(session)
    assert not caught.value.is_crowded


def test_change_that_check_size_refused_fails_no_response_that_answers_it() -> None:
    door = keeper(Clock())
    jar = jar_of(door, cart=[])

    def refuse(change: Callable[[Session], object] = len) -> Session:
        session = door.session(jar.header())
        cast(Any, session["cart"]).append("x" * 9000)
        with pytest.raises(SessionTooLarge):
            session.check_size()
        change(session)
        return session

    assert door.save(refuse()) == []
    assert door.counts["no-room"] == 1
    # What came after it, a sign-in and a new id still do.
    changes: list[Callable[[Session], object]] = [
        lambda session: cast(Any, session["cart"]).append("x"),
        lambda session: setattr(session, "subject", session.subject),
        Session.regenerate,
    ]
    for change in changes:
        with pytest.raises(SessionTooLarge):
            door.save(refuse(change))
    assert door.session(jar.header())["cart"] == []


def test_size_that_fits_passes_the_check() -> None:
    door = keeper(Clock())
    session = door.session(header_of(jar_of(door, cart=[]), 5_000))
    session.check_size()
    cart: Any = session["cart"]
    cart.append("x" * 490)
    session.check_size()


# --- what is refused where it is assigned ---------------------------------------------------------


def test_refused_assignment_leaves_the_session_as_it_was() -> None:
    for store in (False, True):
        clock = Clock()
        more = {"storage": ScriptedStorage(clock)} if store else {}
        door = keeper(clock, part_policies={"new": "cookie", "cart": "cookie"}, **more)
        jar = jar_of(door, cart=["tea"], gone=1)
        session = door.session(jar.header())
        del session["gone"]
        for name in ("cart", "new"):
            with pytest.raises(SessionTooLarge):
                session[name] = "x" * 5000
        if not store:
            with pytest.raises(SessionTooLarge):
                session["gone"] = "x" * 5000
        assert dict(session) == {"cart": ["tea"]}
        session["n"] = 1
        save(door, session, jar)
        assert dict(door.session(jar.header())) == {"cart": ["tea"], "n": 1}


def test_assignments_that_exceed_the_room_together_are_refused_one_by_one() -> None:
    door = keeper(Clock())
    session, jar, refused = door.session(), Jar(), 0
    for number in range(30):
        try:
            session[f"part {number}"] = "x" * 100
        except SessionTooLarge:
            refused += 1
    count = len(session)
    assert 10 < count == 30 - refused < 30
    session["part 0"] = "y" * 100  # of the same size
    save(door, session, jar)
    assert len(door.session(jar.header())) == count


def test_assignment_counts_what_it_replaces_and_what_was_removed() -> None:
    door = keeper(Clock())
    session = door.session(jar_of(door, large="x" * 1500).header())
    for number in range(50):
        session["large"] = f"{number:02}" * 800
    del session["large"]
    session["other"] = "x" * 1800
    assert door.save(session)


def test_part_that_may_spill_is_never_refused() -> None:
    clock = Clock()
    door = keeper(clock, storage=ScriptedStorage(clock))
    jar = jar_of(door)
    session = door.session(header_of(jar, 7_900))
    for number in range(9):
        session[f"part {number}"] = "x" * 5000
    assert save(door, session, jar)
    assert len(door.session(jar.header())) == 9


@pytest.mark.slow
def test_stored_parts_that_cannot_be_listed_are_refused_where_they_are_assigned() -> None:
    def check(profile: str) -> None:
        for size, foreign_bytes, other_bytes in (
            (1, 0, 0),
            (1, 7_900, 50_000),
            (1_000, 0, 3_000),
            (1_000, 100_000, 0),
        ):
            clock = Clock()
            door = keeper(clock, profile=profile, storage=ScriptedStorage(clock))
            jar = jar_of(door)
            session = door.session(header_of(jar, foreign_bytes))
            with pytest.raises(SessionTooLarge) as caught:
                session.update({f"p{number}": "x" * size for number in range(1_000)})
            count = len(session)
            assert count > 60
            assert f"p{count}" not in session
            assert f"p{count}" in caught.value.parts
            session.check_size()
            assert save(door, session, jar, other_bytes)
            assert len(door.session(jar.header()).keys()) == count
            # A later request counts what is there already, and may still change it.
            session = door.session(header_of(jar, foreign_bytes))
            with pytest.raises(SessionTooLarge):
                session.update({f"q{number}": "x" * size for number in range(20)})
            session["p3"] = "y" * size
            assert save(door, session, jar, other_bytes)
            assert door.session(jar.header())["p3"] == "y" * size

    check_each(("tight", "portable", "standard", "roomy"), check)


def test_session_that_passes_the_check_is_saved_whatever_its_request_did() -> None:
    clock = Clock()
    door = keeper(clock, storage=ScriptedStorage(clock), longest_lifetime=30 * 86400)
    for step in ("write", "regenerate", "sign in", "limit", "remove", "sign out"):
        for spare in range(0, 14, 3):
            jar = jar_of(door, **{f"p{number:03}": "x" * 500 for number in range(100)})
            session = door.session(jar.header())
            if step == "regenerate":
                session.regenerate()
            elif step == "sign in":
                session.subject = "alice"
            elif step == "limit":
                session.limit(persistent=True, idle=20 * 86400)
            elif step == "remove":
                for number in range(20):
                    del session[f"p{number:03}"]
            elif step == "sign out":
                session.subject = None
            try:
                for number in range(300):
                    session[f"{number:03}{'n' * spare}"] = "x" * 500
            except SessionTooLarge:
                count = len(session)
            session.check_size()
            assert save(door, session, jar, 3_000)
            assert len(door.session(jar.header())) == count


def test_list_of_stored_parts_that_grew_with_its_values_passes_the_check_if_it_fits() -> None:
    clock = Clock()
    door = keeper(clock, storage=ScriptedStorage(clock))
    session = door.session()
    for number in range(100):
        session[f"p{number}"] = []
    lists: Any = list(session.values())
    for each in lists:
        each.append("x" * 2_000)
    session.check_size()
    assert door.save(session)
    # A part takes less as itself than as an entry of the list, until it grows.
    session = door.session()
    for number in range(180):
        session[f"p{number}"] = []
    session.check_size()
    lists = list(session.values())
    for each in lists:
        each.append("x" * 2_000)
    with pytest.raises(SessionTooLarge) as caught:
        session.check_size()
    assert caught.value.parts["p7"] > 2_000


# --- parts that may be left out -------------------------------------------------------------------


def test_parts_that_may_be_left_out_are_left_out_in_order_and_no_more_than_needed() -> None:
    for size, kept in (
        (0, {"cart", "flash", "hints"}),
        (7_000, {"cart", "hints"}),
        (7_600, {"cart"}),
    ):
        door = keeper(Clock(), may_drop=["flash", "hints"])
        jar = jar_of(door, cart=["tea"])
        session = door.session(header_of(jar, size))
        session.update(flash="f" * 400, hints="h" * 300)
        session["cart"] = ["tea", "milk"]
        assert save(door, session, jar)
        assert set(door.session(jar.header())) == kept
        assert door.counts["part-left-out"] == 3 - len(kept)
        assert door.counts["no-room"] == 0


def test_part_that_may_be_left_out_is_never_refused_and_never_costs_the_others() -> None:
    for size in (0, 7_900, 100_000):
        door = keeper(Clock(), may_drop=["flash"])
        jar = jar_of(door, n=100)
        session = door.session(header_of(jar, size))
        session["flash"] = "x" * 50_000
        session["n"] = 101
        assert save(door, session, jar)
        assert dict(door.session(jar.header())) == {"n": 101}
        with pytest.raises(SessionTooLarge):
            door.session(header_of(jar, size))["other"] = "x" * 5000


def test_of_parts_that_begin_alike_the_newest_stays() -> None:
    door = keeper(Clock(), may_drop=["_state_*"])
    jar = jar_of(door, cart=["tea"])
    for number in range(40):
        session = door.session(jar.header())
        session[f"_state_{number}"] = "x" * 400
        assert save(door, session, jar)
        assert {"cart", f"_state_{number}"} <= set(door.session(jar.header()))
    assert door.counts["part-left-out"] > 30
    kept = [name for name in door.session(jar.header()) if name != "cart"]
    assert kept == [f"_state_{number}" for number in range(40 - len(kept), 40)]


def test_part_that_may_be_left_out_spills_if_it_can() -> None:
    clock = Clock()
    door = keeper(clock, storage=ScriptedStorage(clock), may_drop=["flash"])
    jar = jar_of(door, flash="x" * 9_000)
    assert door.session(jar.header())["flash"] == "x" * 9_000
    assert door.counts["part-left-out"] == 0


# --- a login --------------------------------------------------------------------------------------

SUBJECTS = ("jdoe", "j" * 100, "ü" * 128)


def test_sign_in_is_written_beside_any_cookies_and_any_lines_of_the_application() -> None:
    def check(profile: str) -> None:
        for subject in SUBJECTS:
            for size in (0, 2_700, 7_600, 9_000, 13_500, 100_000):
                for other_bytes in (0, DELETION_BYTES, field_bytes("x" * 2_800), 50_000):
                    door = keeper(Clock(), profile=profile)
                    jar = Jar()
                    session = door.session(foreign(size))
                    session.subject = subject
                    assert save(door, session, jar, other_bytes)
                    assert door.session(header_of(jar, size)).subject == subject

    check_each(("tight", "portable", "standard", "roomy"), check)


def test_sign_in_keeps_its_parts_beside_any_lines_of_the_application() -> None:
    for other_bytes in (DELETION_BYTES, 50_000):
        for persistent in (False, True):
            door = keeper(Clock(), persistent=persistent)
            jar = jar_of(door, None, cart=CART)
            session = door.session(jar.header())
            session["groups"] = ["staff"] * 40
            session.subject = "jdoe"
            assert save(door, session, jar, other_bytes)
            session = door.session(jar.header())
            assert session.subject == "jdoe"
            assert set(session) == {"cart", "groups"}


def test_visitor_with_a_full_header_can_sign_in_and_keeps_the_cart() -> None:
    for size in (6_900, 7_600, 100_000):
        for subject in SUBJECTS:
            door = keeper(Clock())
            jar = jar_of(door, None, cart=CART)
            session = door.session(header_of(jar, size))
            session.subject = subject
            assert save(door, session, jar)
            session = door.session(jar.header())
            assert (session.subject, session["cart"]) == (subject, CART)


def test_sign_out_is_sent_beside_any_cookies_and_lines() -> None:
    for size in (0, 7_600, 100_000):
        door = keeper(Clock())
        jar = jar_of(door, cart=CART)
        session = door.session(header_of(jar, size))
        session.invalidate()
        session["bye"] = True
        assert save(door, session, jar, 50_000)
        session = door.session(jar.header())
        assert (session.subject, dict(session)) == (None, {"bye": True})


def test_ordinary_change_beside_too_many_lines_of_the_application_is_an_error() -> None:
    door = keeper(Clock())
    session = door.session(jar_of(door).header())
    session["cart"] = CART
    with pytest.raises(SessionTooLarge) as caught:
        door.save(session, 3_000)
    assert not caught.value.is_crowded
    browser = Browser(door)
    browser.visit(lambda session: session.update(cart=CART))
    assert browser.session()["cart"] == CART

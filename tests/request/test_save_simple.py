"""A session that a simple save carries is carried by every other save, too."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sealedstate import Keeper, Session, SessionTooLarge
from sealedstate._wire.record import Place
from sealedstate.profiles import PROFILES
from sealedstate.storage import MemoryStorage
from tests.support.jar import Browser, Clock, keeper, places_of

# None of these is simple, and each leaves the parts as they are.
GENERAL: dict[str, Callable[[Session], object]] = {
    "a new id": lambda session: session.regenerate(),
    "a new id and a rewritten value": lambda session: renew(session),
}


def renew(session: Session) -> None:
    session["part"] = bytes(len(bytes_of(session)))
    session.regenerate()


def bytes_of(session: Session) -> bytes:
    value = session["part"]
    assert isinstance(value, bytes)
    return value


def at_its_limit(door: Keeper) -> Browser:
    """A browser whose session is as large as the core carries."""
    fits, too_large = 0, 5000
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        fits, too_large = (middle, too_large) if carries(door, middle) else (fits, middle)
    browser = Browser(door)
    browser.visit(lambda session: fill(session, fits))
    return browser


def carries(door: Keeper, size: int) -> bool:
    browser = Browser(door)
    try:
        browser.visit(lambda session: fill(session, size))
    except SessionTooLarge:
        return False
    return places_of(browser.session()) == {"part": Place.CORE}


def fill(session: Session, size: int) -> None:
    session.subject = "jdoe"
    session["part"] = bytes(size)


@pytest.mark.parametrize("way", GENERAL)
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("profile", PROFILES)
def test_session_at_the_limit_of_a_simple_save_survives_every_other_save(
    profile: str, persistent: bool, stored: bool, way: str
) -> None:
    clock = Clock()
    store = MemoryStorage(clock) if stored else None
    door = keeper(clock, profile=profile, persistent=persistent, storage=store)
    browser = at_its_limit(door)
    before = browser.read()
    browser.visit(GENERAL[way])
    assert browser.read() == before
    assert places_of(browser.session()) == {"part": Place.CORE}


@pytest.mark.parametrize(
    "stray", ["__Host-Http-s-1=x", "__Host-Http-s-1=x; __Host-Http-s-3=y", "__Host-Http-s-2=z"]
)
@pytest.mark.parametrize("profile", PROFILES)
def test_stray_chunks_take_no_room_from_a_session_at_its_limit(profile: str, stray: str) -> None:
    door = keeper(Clock(), profile=profile)
    browser = at_its_limit(door)
    session = door.session(f"{browser.jar.header()}; {stray}")
    size = len(bytes_of(session))
    session["part"] = b"y" * size
    browser.jar.receive(door.save(session))
    assert browser.read() == {"part": b"y" * size}


@pytest.mark.parametrize("profile", PROFILES)
def test_stray_chunks_are_deleted_if_there_is_room(profile: str) -> None:
    door = keeper(Clock(), profile=profile)
    browser = Browser(door)
    browser.visit(lambda session: fill(session, 100))
    session = door.session(f"{browser.jar.header()}; __Host-Http-s-1=x")
    session["part"] = b""
    assert [line.split("=")[0] for line in door.save(session)][1:]

"""How the cost of a session grows with what is around it: keys, parts, cookies, service logins.

Knows our keeper and how to make more of each. Does not know the peers, stores or how anything is
printed. Two costs each: `open`, the subject is read, and `save`, a part is changed besides.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from benchmarks.cookie_pairs import pairs
from benchmarks.cpu_rounds import BEFORE, Times, Turn, looped, run
from benchmarks.dress import Progress
from benchmarks.ours import DERIVED, STORED, WIDE, Variant
from benchmarks.workloads import ENTITY_IDS, NOW, make_signed_in, read_entity_ids
from sealedstate import Keeper, Key, Profile, Settings

OPEN, SAVE = "open", "save"
SEEN = "seen"
SUBJECT = "jdoe@example.edu"
MILLISECONDS = 4.0

STORED_LOGINS, DERIVED_LOGINS = "service logins, stored", "service logins, derived"
POINTS: dict[str, Sequence[int]] = {
    "keys in the ring": (1, 10, 100, 1000),
    "parts in the cookie": (1, 5, 10, 20, 40),
    "foreign cookies": (0, 5, 10, 20, 50),
    STORED_LOGINS: (0, 5, 20, 50, 100),
    DERIVED_LOGINS: (0, 5, 20, 50, 100, 200),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A keeper and the Cookie header of a session that it opens."""

    keeper: Keeper
    header: str

    def turns(self) -> dict[str, Turn]:
        keeper, header = self.keeper, self.header

        def read(_: int) -> object:
            return keeper.session(header).subject

        def save(number: int) -> object:
            session = keeper.session(header)
            _ = session.subject
            session[SEEN] = number
            return keeper.save(session)

        return {OPEN: looped(read), SAVE: looped(save)}


def measure(rounds: int, progress: Progress) -> dict[str, dict[int, dict[str, Times]]]:
    """By what grows, how many there are of it, and `OPEN` or `SAVE`."""
    found: dict[str, dict[int, dict[str, Times]]] = {}
    for what, points in POINTS.items():
        turns = {
            f"{point} {act}": turn
            for point in points
            for act, turn in CASES[what](point).turns().items()
        }
        times = run(turns, rounds, MILLISECONDS, progress, what)
        found[what] = {
            point: {act: times[f"{point} {act}"] for act in (OPEN, SAVE)} for point in points
        }
    return found


def _ring_of(keys: int) -> Case:
    """The session was sealed by the first, which seals; the others only open."""
    texts = [Key.generate(os.urandom).export() for _ in range(keys)]
    return _filled(_keeper(keys=texts), lambda session: None)


def _parts(parts: int) -> Case:
    """So many, of 20 bytes each."""

    def fill(session: object) -> None:
        for number in range(parts):
            session[f"part{number:02}"] = "x" * 20  # type: ignore[index]

    return _filled(_keeper(), fill)


def _foreign(cookies: int) -> Case:
    """So many others before ours, of 60 bytes each, as many analytics cookies are."""
    case = _filled(_keeper(profile=WIDE), lambda session: None)
    others = [f"_other{number:02}={'x' * 51}" for number in range(cookies)]
    return Case(case.keeper, "; ".join([*others, case.header]))


def _stored_logins(logins: int) -> Case:
    return _logins(logins, STORED, "roomy")


def _derived_logins(logins: int) -> Case:
    return _logins(logins, DERIVED, "portable")


def _logins(logins: int, variant: Variant, profile: str) -> Case:
    """Beside W1; what does not fit into the first cookie of the profile stands in further ones."""
    load = make_signed_in(logins, 1, _entity_ids())
    keeper = _keeper(profile=profile)
    return _filled(keeper, lambda session: variant.fill(session, load, _entity_ids()))


def _filled(keeper: Keeper, fill: Callable[..., None]) -> Case:
    session = keeper.session()
    fill(session)
    if session.subject is None:
        session.subject = SUBJECT
    session[SEEN] = BEFORE
    return Case(keeper, "; ".join(pairs(keeper.save(session))))


def _keeper(keys: Sequence[str] = (), profile: str | Profile = "portable") -> Keeper:
    made = list(keys) or [Key.generate(os.urandom).export()]
    return Keeper(Settings(keys=made, profile=profile, clock=lambda: NOW))


@cache
def _entity_ids() -> tuple[str, ...]:
    return tuple(read_entity_ids(ENTITY_IDS))


CASES: dict[str, Callable[[int], Case]] = {
    "keys in the ring": _ring_of,
    "parts in the cookie": _parts,
    "foreign cookies": _foreign,
    STORED_LOGINS: _stored_logins,
    DERIVED_LOGINS: _derived_logins,
}

"""What the workloads W0 to W4 leave out: nested values, headers that vary, and full cookies.

Each case gives a step, as `revisit_ours` does: one Cookie header (or several) in, Set-Cookie lines
out, with a number to write.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from benchmarks.cookie_pairs import pairs
from benchmarks.cpu_rounds import BEFORE, Step
from benchmarks.revisit_ours import SEEN, STOPPED
from benchmarks.workloads import make_small
from sealedstate import Keeper, Key, Settings

CART = [
    {"sku": f"A-{1000 + number}", "name": f"Article number {number}", "count": number + 1}
    for number in range(5)
]
SEED = 1


def start_cart_read() -> Step:
    """A request that reads a number in a cart of five dicts, and changes nothing."""
    keeper, header = _arrived(cart=CART)

    def step(_: int) -> object:
        session = keeper.session(header)
        cart: Any = session["cart"]
        found = cart[3]["count"]
        keeper.save(session)
        return found

    return step


def start_cart_changed() -> Step:
    """A request that changes a number in a cart of five dicts."""
    keeper, header = _arrived(cart=CART)

    def step(number: int) -> object:
        session = keeper.session(header)
        cart: Any = session["cart"]
        cart[3]["count"] = number
        return keeper.save(session)

    return step


def start_part_read() -> Step:
    """A request that reads a part by `get`, as applications do, and changes nothing."""
    keeper, header = _arrived()

    def step(_: int) -> object:
        session = keeper.session(header)
        found = session.get("lang")
        keeper.save(session)
        return found

    return step


def start_foreign() -> Step:
    """A part is changed beside foreign cookies of 600 lengths in turn."""
    keeper, header = _arrived()
    headers = [f"{header}; _analytics={'x' * length}" for length in range(600)]

    def step(number: int) -> object:
        session = keeper.session(headers[number % 600])
        session[SEEN] = number
        return keeper.save(session)

    return step


def start_first_save(parts: int) -> Step:
    """A new session of so many parts of 60 bytes; what fits into no cookie goes to a store."""
    weak = ["revocation", "spilling"]
    keeper = _keeper(profile="roomy", storage="memory:", accept_weak_store_for=weak)
    values = {f"p{number}": f"{number:060}" for number in range(parts)}

    def step(number: int) -> object:
        session = keeper.session()
        session.update(values)
        session[SEEN] = number
        return keeper.save(session)

    return step


def start_above_one_cookie() -> Step:
    """A part is changed in a session of one part more than one cookie carries."""
    count = 1
    while len(_cookies(**_texts(count))) == 1:
        count += 1
    keeper, header = _arrived(profile="roomy", **_texts(count))

    def step(number: int) -> object:
        session = keeper.session(header)
        session[SEEN] = number
        return keeper.save(session)

    return step


CASES: dict[str, Callable[[], Step]] = {
    "cart of five dicts read": start_cart_read,
    "cart of five dicts changed": start_cart_changed,
    "part read by get": start_part_read,
    "foreign cookies of changing length": start_foreign,
    "first save, 100 parts": lambda: start_first_save(100),
    "first save, 200 parts": lambda: start_first_save(200),
    "just above one cookie": start_above_one_cookie,
}


def _texts(count: int) -> dict[str, str]:
    return {f"part-{number}": f"{number:060}" for number in range(count)}


def _keeper(**settings: Any) -> Keeper:
    keys = [Key.generate(os.urandom).export()]
    return Keeper(Settings(keys=keys, clock=STOPPED, **settings))


def _arrived(profile: str = "portable", **parts: object) -> tuple[Keeper, str]:
    """A keeper, and the header of a small session with these parts, too."""
    keeper = _keeper(profile=profile)
    return keeper, "; ".join(_saved(keeper, parts))


def _cookies(**parts: object) -> list[str]:
    return _saved(_keeper(profile="roomy"), parts)


def _saved(keeper: Keeper, parts: dict[str, object]) -> list[str]:
    load, session = make_small(SEED), keeper.session()
    session.subject = load.subject
    session.update(load.parts | parts | {SEEN: BEFORE})
    return pairs(keeper.save(session))

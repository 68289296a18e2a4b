"""How this project puts the workloads of an identity provider into cookies: as login records.

Knows the keeper and the public door of login records. Does not know how cookies are counted beyond
their pairs, or the peers. Each function takes a workload and gives Set-Cookie lines, none for one
that does not even fit into `WIDE`; `numbered` stands for a registry of the entityIDs in question.

    python benchmarks/ours_sso.py [FILE of entityIDs]    prints each variant and the floor
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import comb, factorial, log2, prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.cookie_pairs import BROWSER_LIMIT, pair_bytes, pairs
from benchmarks.ours import WIDE
from benchmarks.workloads import (
    LOGINS,
    NOW,
    Authn,
    Workload,
    make_signed_in,
    make_workload,
    read_entity_ids,
)
from benchmarks.workloads import ServiceLogin as Visited
from sealedstate import Keeper, Key, Keyring, Session, SessionTooLarge, Settings
from sealedstate.key_sources import StaticKeys
from sealedstate.sso import (
    Identifiers,
    LoginRecords,
    NameID,
    Registry,
    ServiceLogin,
    extended_text,
    parse_registry,
)

# The 90 octets of a cookie's value that RFC 6265 allows.
BITS_PER_CHARACTER = log2(90)
NONCE_AND_TAG_BITS = 8 * (24 + 16)
SEEDS = range(15)
MOST = 511


@dataclass(frozen=True)
class Variant:
    """How the records are kept. `derives`: the identity provider makes transient NameIDs and
    SessionIndexes, `pairwise`: and persistent NameIDs. `step`: seconds of a login's time."""

    numbered: bool = True
    derives: bool = False
    pairwise: bool = False
    step: int = 60

    def set_cookies(self, workload: Workload, entity_ids: Sequence[str]) -> list[str]:
        """A new session, filled and saved at the workload's moment."""
        session = _keeper().session()
        self.fill(session, workload, entity_ids)
        try:
            return _keeper().save(session)
        except SessionTooLarge:
            return []

    def fill(self, session: Session, workload: Workload, entity_ids: Sequence[str]) -> None:
        """What an identity provider puts into a session."""
        session.subject = workload.subject
        # Beyond the real entityIDs the workloads invent some: these are registered too.
        known = dict.fromkeys([*entity_ids, *(one.entity_id for one in workload.services)])
        records = LoginRecords(
            registry(tuple(known)) if self.numbered else Registry(),
            _identifiers() if self.derives else None,
            time_step=self.step,
        )
        record = records.of(session, NOW)
        for state in _authns(workload):
            record.authenticate(state.method, state.duration, state.time)
        subject, session_id = workload.subject or "", session.raw_id
        record.add_service(*(self._login(one, subject, session_id) for one in workload.services))

    def _login(self, visited: Visited, subject: str, session_id: bytes) -> ServiceLogin:
        name, index = visited.name_id, visited.session_index
        if self.derives:
            made, entity_id = _identifiers(), visited.entity_id
            index = made.session_index(session_id, entity_id, NOW)
            if name.startswith("_"):
                name = made.transient_name_id(session_id, entity_id, NOW)
            elif self.pairwise and name != subject:
                name = made.pairwise_name_id(subject, entity_id)
        return ServiceLogin(visited.entity_id, visited.method, NameID(name), index, visited.time)


VARIANTS = {
    "sealedstate": Variant(),
    "sealedstate, seconds": Variant(step=1),
    "sealedstate unregistered": Variant(numbered=False),
    "sealedstate derived": Variant(derives=True),
    "sealedstate derived, pairwise too": Variant(derives=True, pairwise=True),
    "derived, unregistered": Variant(numbered=False, derives=True, pairwise=True),
}


def floor_chars(workload: Workload, entity_ids: int, step: int) -> float:
    """What no format could undercut: name, nonce, tag, and the choices that a reader can't guess.

    Which services, as a set; of each the kind of its NameID, its random bits, and its time within
    the session. The subject counts as known, and so does the authentication's method.
    """
    (authn,) = _authns(workload)
    kinds = [_random_bits(login.name_id, workload.subject) for login in workload.services]
    orders = factorial(len(kinds)) // prod(factorial(kinds.count(kind)) for kind in set(kinds))
    span = (NOW - authn.time) // step + 1
    bits = (
        NONCE_AND_TAG_BITS
        + 8 * 16
        + log2(6 * 3600)
        + log2(comb(entity_ids, len(kinds)))
        + log2(orders)
        + sum(kinds)
        + len(kinds) * (128 + log2(span))
    )
    return len("__Host-s=") + bits / BITS_PER_CHARACTER


def _random_bits(name_id: str, subject: str | None) -> int:
    return 0 if name_id == subject else {33: 128, 28: 160, 44: 256}[len(name_id)]


def _authns(workload: Workload) -> list[Authn]:
    rows = workload.parts["authn"]
    assert isinstance(rows, list)
    return [Authn(**row) for row in rows]


@cache
def _keeper() -> Keeper:
    keys = [Key.generate(os.urandom).export()]
    return Keeper(Settings(keys=keys, profile=WIDE, clock=lambda: NOW))


@cache
def registry(entity_ids: tuple[str, ...]) -> Registry:
    return parse_registry(extended_text("", entity_ids))


@cache
def _identifiers() -> Identifiers:
    keyring = Keyring((Key.generate(os.urandom),))
    return Identifiers(StaticKeys(keyring), Key.generate(os.urandom))


def _most_logins(variant: Variant, seed: int, entity_ids: Sequence[str]) -> int:
    """How many service logins fit beside W1 into a single cookie; at most `MOST`."""
    low, high = 0, MOST + 1
    while high - low > 1:
        middle = (low + high) // 2
        cookies = pairs(variant.set_cookies(make_signed_in(middle, seed, entity_ids), entity_ids))
        fits = 0 < pair_bytes(cookies) <= BROWSER_LIMIT
        low, high = (middle, high) if fits else (low, middle)
    return low


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("entity_ids.txt")
    entity_ids = read_entity_ids(file)
    print(f"{'':36}" + "".join(f"{name:>7}" for name in LOGINS) + "   logins in 4096 bytes")
    for title, variant in VARIANTS.items():

        def size(load: Workload, variant: Variant = variant) -> int:
            return pair_bytes(pairs(variant.set_cookies(load, entity_ids)))

        sizes = [
            statistics.median_low(size(make_workload(name, seed, entity_ids)) for seed in SEEDS)
            for name in LOGINS
        ]
        most = statistics.median_low(_most_logins(variant, seed, entity_ids) for seed in SEEDS)
        print(f"{title:36}" + "".join(f"{number:7}" for number in sizes) + f"{most:9}")
    for step in (1, 60):
        floors = [
            statistics.median_low(
                floor_chars(make_workload(name, seed, entity_ids), len(entity_ids), step)
                for seed in SEEDS
            )
            for name in LOGINS
        ]
        title = f"floor, stored, times to {step} s"
        print(f"{title:36}" + "".join(f"{number:7.0f}" for number in floors))


if __name__ == "__main__":
    main()

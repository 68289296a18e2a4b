"""What no format could undercut: the information in a workload, counted bit by bit.

Knows what a reader of a workload's definition can't guess, and how many bits a cookie's character
holds. Does not know any format. Each term is told, so that anyone can disagree with one of them.

A character of a cookie's value is one of the 90 octets that RFC 6265 allows: log2 90 = 6.49 bits.
Nonce (24 bytes) and tag (16 bytes) count as XChaCha20-Poly1305 has them: whatever is encrypted and
authenticated needs them or their like. What counts of the session:

    session id       16 random bytes (W0: the CSRF secret of 16, and a number of five digits)
    subject          which one of those that the workloads draw from
    authentication   its time within six hours, to the second, and which method
    services         which of all known ones, as a set: log2 of n over k; the order says nothing
    kinds            which logins have a transient, persistent or no NameID of their own
    NameIDs          their random bits: 128, 160 or 256
    SessionIndexes   128 random bits each
    times            of the logins: minutes (or seconds) between the authentication and now

With `derived` the identity provider makes transient NameIDs and SessionIndexes by a keyed function
of the session and the service: they hold no information then.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, factorial, log2, prod

from benchmarks.ours import authentications
from benchmarks.workloads import (
    DOMAINS,
    NOW,
    OTHER_METHODS,
    PEOPLE,
    SIX_HOURS,
    ServiceLogin,
    Workload,
)

BITS_PER_CHARACTER = log2(90)
NAME = "__Host-s="
NONCE_AND_TAG_BITS = 8 * (24 + 16)
HANDLE_BITS = 128
MINUTE = 60
# Seven of ten sessions have the usual method, the others one of the rest.
METHOD_BITS = -0.7 * log2(0.7) - 0.3 * log2(0.3 / len(OTHER_METHODS))


def floor_bits(
    workload: Workload, known_services: int, *, step: int = MINUTE, derived: bool = False
) -> dict[str, float]:
    """Bits by term. `step`: the seconds to which a login's time is kept."""
    if workload.subject is None:
        return {"nonce and tag": NONCE_AND_TAG_BITS, "csrf": 128.0, "user_id": log2(90_000)}
    logins = workload.services
    return {
        "nonce and tag": NONCE_AND_TAG_BITS,
        "session id": 128.0,
        "subject": log2(len(PEOPLE) * len(DOMAINS)),
        "authentication": log2(SIX_HOURS) + METHOD_BITS,
        "services": log2(comb(max(known_services, len(logins)), len(logins))),
        "kinds": _kinds_bits(logins, workload.subject),
        "NameIDs": float(sum(_name_bits(one, workload.subject, derived) for one in logins)),
        "SessionIndexes": 0.0 if derived else float(HANDLE_BITS * len(logins)),
        "times": len(logins) * log2(_span(workload, step) + 1),
    }


def floor_bytes(workload: Workload, known_services: int, **how: bool) -> float:
    """The cookie bytes that these bits take, with the name of our cookie."""
    bits = sum(floor_bits(workload, known_services, **how).values())
    return len(NAME) + bits / BITS_PER_CHARACTER


def _kinds_bits(logins: Sequence[ServiceLogin], subject: str) -> float:
    kinds = [_name_bits(login, subject, False) for login in logins]
    orders = factorial(len(kinds)) // prod(factorial(kinds.count(kind)) for kind in set(kinds))
    return log2(orders)


def _name_bits(login: ServiceLogin, subject: str, derived: bool) -> int:
    name = login.name_id
    if name == subject or (derived and name.startswith("_")):
        return 0
    return {33: HANDLE_BITS, 28: 160, 44: 256}[len(name)]


def _span(workload: Workload, step: int) -> int:
    (authentication,) = authentications(workload)
    return (NOW - authentication.time) // step

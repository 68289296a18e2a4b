"""How this project puts a session into cookies: through its public API, like an application.

Knows the keeper's door. Does not know how cookies are counted beyond their pairs, or the peers.
"""

from __future__ import annotations

import os
from functools import cache

from benchmarks.cookie_pairs import pair_bytes, pairs
from benchmarks.workloads import Workload
from sealedstate import Keeper, Key, Profile, SessionTooLarge, Settings

# As wide as cookies go, so that 100 service logins show their size: a server would refuse them.
WIDE = Profile(
    name="bench",
    cookies=8,
    cookie_bytes=4090,
    total_bytes=33_000,
    header_bytes=40_000,
    response_bytes=40_000,
)

# A part is never cut in two, and more logins than this don't fit beside the first cookie.
LOGINS_IN_A_PART = 90


def sealedstate_cookie_bytes(workload: Workload) -> int:
    """The bytes of the pairs that a browser sends back."""
    return pair_bytes(pairs(sealedstate_set_cookies(workload)))


def sealedstate_set_cookies(workload: Workload) -> list[str]:
    """A new session, filled and saved; none for one that does not even fit into `WIDE`."""
    session = _keeper().session()
    if workload.subject is not None:
        session.subject = workload.subject
    session.update(_parts(workload))
    try:
        return _keeper().save(session)
    except SessionTooLarge:
        return []


def _parts(workload: Workload) -> dict[str, object]:
    """The workload's own parts; only very many service logins become two or more."""
    rows = [login.plain() for login in workload.services]
    starts = range(LOGINS_IN_A_PART, len(rows), LOGINS_IN_A_PART)
    if not starts:
        return workload.parts
    further = {f"services-{start}": rows[start : start + LOGINS_IN_A_PART] for start in starts}
    return workload.parts | {"services": rows[:LOGINS_IN_A_PART]} | further


@cache
def _keeper() -> Keeper:
    return Keeper(Settings(keys=[Key.generate(os.urandom).export()], profile=WIDE))

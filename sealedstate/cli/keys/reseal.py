"""``sealedstate keys reseal``: seal anew what is stored for years, and let go of keys.

Knows what is told of a sweep, and which keys it frees. Does not know rows or values.

The keys may be a ring or stand one a line: of the latter it tells which ones are still needed, and
whoever keeps them takes the others away.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection
from typing import Any

from ..._stored.table import Kind, SealedTable, StoreAccess, SweepResult
from ...deployment import Deployment
from ...errors import ConfigurationError, OperatorError
from ...keyring import Keyring
from ...rotation.transitions import destroy_long_term, obsolete_long_term
from ...storage import USES
from ..output import many
from .changes import Outcome, changed
from .source import RingSource, configured, keyring_of, ring_of, store_of


def reseal(given: argparse.Namespace) -> int:
    """One sweep; its exit code: 1 where rows are left that don't open, or it was stopped."""
    with configured(given) as deployment:
        store_of(deployment)
        source = ring_of(deployment, given)
        if given.destroy and source is None:
            raise ConfigurationError("--destroy is for a ring; other keys stand where you put them")
        try:
            return _reseal(deployment, source, given)
        except OperatorError as error:
            if given.json:
                print(json.dumps({"unusable": str(error)}))
            print(f"sealedstate: {error}; run it again", file=sys.stderr)
            return 1


def _reseal(deployment: Deployment, source: RingSource | None, given: argparse.Namespace) -> int:
    now = deployment.settings.clock()
    # Looked at before the sweep: what nobody could have sealed by then, nobody seals while it runs.
    replaced = _kids(source, int(now))
    keyring = keyring_of(deployment, source)
    swept = _sweep(deployment, keyring.lasting, now)
    free = {kid for kid in replaced if not swept.needed[kid]}
    told, facts = _told(swept, keyring.lasting, int(now)), _facts(swept)
    if source is not None:
        destroyed = _destroy(source, free) if given.destroy else set[bytes]()
        told += _told_of_free(free, destroyed)
        facts |= {"free": _hex(free - destroyed), "destroyed": _hex(destroyed)}
    Outcome(told, facts).tell(given)
    return 1 if swept.unreadable else 0


def _sweep(deployment: Deployment, keyring: Keyring, now: float) -> SweepResult:
    settings, result = deployment.settings, SweepResult()
    access = StoreAccess(
        store_of(deployment), settings.realm, settings.random, lambda: now, lambda: keyring
    )
    for use in USES.values():
        for context in use.contexts if use.lasting else ():
            SealedTable(access, Kind(context, "", "a stored value")).reseal(result)
    return result


def _kids(source: RingSource | None, now: int) -> set[bytes]:
    """Lasting keys of the ring by which no node seals any more."""
    return set() if source is None else {key.kid for key in obsolete_long_term(source.ring(), now)}


def _destroy(source: RingSource, kids: Collection[bytes]) -> set[bytes]:
    before, after, _ = changed(source, lambda ring, now: destroy_long_term(ring, kids, now))
    return {key.kid for key in before.long_term} - {key.kid for key in after.long_term}


# --- what is told -------------------------------------------------------------------------------


def _told(swept: SweepResult, ring: Keyring, now: int) -> list[str]:
    rows = many(swept.seen, "value is", "values are")
    told = [f"{rows} stored for years; {swept.resealed} of them sealed anew."]
    primary = ring.primary(now).kid
    for kid, count in sorted(swept.needed.items()):
        name = kid.hex() or "no key of ours"
        told.append(f"{name} seals {count}{'' if kid != primary else ', and whatever comes'}.")
    for reason, count in sorted(swept.unreadable.items()):
        told.append(
            f"{many(count, 'value does', 'values do')} not open here ({reason}), and"
            " stayed: of another realm, altered, or sealed by a key that this ring lacks."
        )
    return told


def _told_of_free(free: Collection[bytes], destroyed: Collection[bytes]) -> list[str]:
    told = [f"{kid} is destroyed." for kid in _hex(destroyed)]
    for kid in _hex(set(free) - set(destroyed)):
        told.append(
            f"{kid} is needed by nothing in this store: `--destroy` destroys it. If the ring serves"
            " other applications or stores, too, sweep those before."
        )
    return told


def _facts(swept: SweepResult) -> dict[str, Any]:
    return {
        "values": swept.seen,
        "resealed": swept.resealed,
        "needed": {kid.hex(): count for kid, count in swept.needed.items()},
        "unreadable": dict(swept.unreadable),
    }


def _hex(kids: Collection[bytes]) -> list[str]:
    return sorted(kid.hex() for kid in kids)

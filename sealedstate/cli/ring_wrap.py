"""``sealedstate keys wrap``: the secrets of a ring that stands in clear, from now on wrapped.

Knows which ring can be in clear, and what is left of it beside the file. Does not know how secrets
are wrapped.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from ..errors import ConfigurationError
from ..rotation import Ring
from .ring_commands import Outcome, changed
from .ring_source import RingSource
from .wording import duration


def wrap(source: RingSource, given: argparse.Namespace) -> int:
    if source.path is None:
        raise ConfigurationError("a ring in a store is always wrapped")
    if not source.is_wrapped:
        raise ConfigurationError(
            "SEALEDSTATE_KEK is not set: it holds the key that is to wrap;"
            " `sealedstate keys generate --kek` prints one"
        )
    changed(source, _anew)
    # The document before the last write stands in PATH.prev: now that, too, is wrapped.
    _, after, _ = changed(source, _anew)
    facts = {
        "where": source.home.where,
        "changed": True,
        "ring": after.ring_id,
        "sequence": after.sequence,
    }
    return Outcome(_told(source, after), facts).tell(given)


def _anew(ring: Ring, now: int) -> Ring:
    """The same ring once more; later than what anybody has, so that nobody puts that back."""
    return replace(ring, sequence=ring.sequence + 1, updated_at=now)


def _told(source: RingSource, ring: Ring) -> list[str]:
    return [
        f"The keys in {source.home.where} are wrapped, and those in {source.path}.prev.",
        "Processes without SEALEDSTATE_KEK go on with what they have loaded; start them anew with"
        f" it within {duration(ring.schedule.announce)}, before a new key can seal.",
        "Who has read the file in clear, or a backup of it, has its keys: `sealedstate keys rotate"
        " --now` begins a new one, `revoke` ends an old one.",
    ]

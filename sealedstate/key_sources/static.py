"""A ring that stands in the configuration and stays as it is.

Knows the text of keys. Does not know files or the environment.

The first key seals, the others open. To rotate: put the new key last and roll that out, so that
every node can open what it will seal; then put it first and roll that out; remove the old one when
the longest session is over. Or put it first with the date from which it seals, after ``@``, and
roll out once, before that date: ``sealedstate-key-1:...@2026-12-01T00:00:00Z``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

from ..errors import ConfigurationError
from ..keys import LOOKUP_LABEL, Key, Keyring, parse_lookup


@dataclass(frozen=True, slots=True)
class StaticKeys:
    """A key source with one ring."""

    ring: Keyring

    def keyring(self) -> Keyring:
        return self.ring


def parse_keyring(lines: Sequence[str], skew: int) -> Keyring:
    """The ring of keys and at most one lookup key, one a line. Raises ConfigurationError."""
    lookups = [line for line in lines if line.strip().startswith(f"{LOOKUP_LABEL}:")]
    keys = tuple(_parse(line) for line in lines if line not in lookups)
    if any(key.activates_at < later.activates_at for key, later in pairwise(keys)):
        raise ConfigurationError(
            "keys: the newest stands first; a key in front of one with a date needs a later date"
        )
    if len(lookups) > 1:
        raise ConfigurationError("keys: more than one lookup key")
    return Keyring(keys, skew=skew, lookup=parse_lookup(lookups[0]) if lookups else None)


def _parse(line: str) -> Key:
    text, at, date = line.partition("@")
    key = Key.parse(text)
    return replace(key, activates_at=_epoch(date)) if at else key


def _epoch(date: str) -> int:
    try:
        moment = datetime.fromisoformat(date.strip())
    except ValueError:
        raise ConfigurationError("keys: behind '@' stands an ISO 8601 date and time") from None
    if moment.tzinfo is None:
        raise ConfigurationError("keys: a date needs a time zone, such as Z for UTC")
    return int(moment.timestamp())

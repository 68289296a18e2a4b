"""What commands about stored values share: the store, and the keys as they are, untended.

Knows settings and both kinds of keys. Does not know what is stored, nor what is done with it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import ConfigurationError
from ..key_sources import is_ring
from ..keys import Keyring
from ..settings import Settings
from ..storage import Storage
from .ring_source import RingSource, source_of


def store_of(settings: Settings) -> Storage:
    """The store. Raises ConfigurationError where none is set."""
    if settings.store is None:
        raise ConfigurationError(
            "such values are in the store, and no `storage` is set: name the configuration by"
            " --config or by SEALEDSTATE_ variables"
        )
    return settings.store


def ring_of(settings: Settings, given: argparse.Namespace) -> RingSource | None:
    """The place of the ring; None where the keys are none."""
    scheme, _, rest = str(settings.keys).partition(":")
    is_one = scheme == "store" or (scheme == "file" and is_ring(Path(rest)))
    return source_of(settings, given) if is_one else None


def keyring_of(settings: Settings, source: RingSource | None) -> Keyring:
    """The keys as they are now. Raises ConfigurationError or OperatorError."""
    if source is not None:
        return source.ring().keyring()
    return settings.key_sources().open(settings.keys).keyring()

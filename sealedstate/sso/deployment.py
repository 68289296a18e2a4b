"""What the services of one identity provider share: its store, its rows, and the names of these.

Knows how they come from settings, and that a store has to be fit for a use. Does not know what any
service keeps.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from .._stored.table import Rows
from .._wire.encoding import to_text
from ..errors import ConfigurationError
from ..keyring import Keyring, length_prefixed
from ..settings import Settings
from ..storage import Storage
from ..storage.check import StorageCheck

log = logging.getLogger("sealedstate")


@dataclass(frozen=True, slots=True)
class SsoDeployment:
    """All nodes that share a store, a ring and a realm.

    `keyring` tells the ring in force; `skew` (seconds) is how far clocks may differ. `answered` is
    called when the store has answered: one that was down at the start is judged then.
    """

    storage: Storage
    rows: Rows
    keyring: Callable[[], Keyring]
    skew: int
    answered: Callable[[], object] = lambda: None

    @classmethod
    def of(cls, settings: Settings, use: str) -> Self:
        """That of `settings`, for a use of the store such as ``"replay"``.

        Raises ConfigurationError without a store, or where it falls short of what the use needs and
        `Settings.tolerate` does not accept that.
        """
        if settings.store is None:
            raise ConfigurationError(f"storage: {use} needs one, and none is set")
        fitness = StorageCheck(settings.store, (use,), settings.tolerate)
        fitness.check()
        return cls(
            settings.store,
            Rows(settings.realm, settings.random, _teller(settings)),
            settings.key_source.keyring,
            settings.skew,
            fitness.recheck,
        )

    def hashed_name(self, kind: str, secret: bytes) -> str:
        """The key of a row that is named by what nobody can guess: 32 characters."""
        return _text(self._fields(kind, secret), b"")

    def keyed_name(self, kind: str, *fields: str) -> str:
        """The key of a row that is named by what one could guess: 32 characters.

        Raises ConfigurationError without a lookup key, and UnicodeEncodeError for a text with a
        lone surrogate.
        """
        return _text(self._fields(kind, *fields), self.lookup())

    def lookup(self) -> bytes:
        """The secret behind names in the store. Raises ConfigurationError where there is none."""
        secret = self.keyring().lookup
        if secret is None:
            raise ConfigurationError(
                "names in the store need a lookup key; `sealedstate keys generate --lookup` prints"
                " one, to stand beside the keys"
            )
        return secret

    def _fields(self, kind: str, *fields: str | bytes) -> bytes:
        return length_prefixed("sealedstate/1", kind, self.rows.realm, *fields)


def _text(message: bytes, secret: bytes) -> str:
    return to_text(hashlib.blake2b(message, key=secret, digest_size=24).digest())


def _teller(settings: Settings) -> Callable[[str, str], None]:
    def refused(context: str, reason: str) -> None:
        settings.journal.emit("row-refused", reason)
        log.warning("a stored value is refused: context=%s reason=%s", context, reason)

    return refused

"""What the services of one identity provider share: its store, its rows, and the names of these.

Knows how they come from settings, and that a store has to be fit for a use. Does not know what any
service keeps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from .._stored.table import Rows
from .._wire.encoding import to_text
from ..deployment import Deployment
from ..errors import ConfigurationError
from ..keyring import Keyring, length_prefixed
from ..storage import Storage


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
    def of(cls, deployment: Deployment, use: str) -> Self:
        """That of `settings`, for a use of the store such as ``"replay"``.

        Raises ConfigurationError without a store, or where it falls short of what the use needs and
        `Settings.accept_weak_store_for` does not accept that.
        """
        deployment.require(use)
        if deployment.store is None:
            raise ConfigurationError(f"storage: {use} needs one, and none is set")
        return cls(
            deployment.store,
            deployment.rows,
            deployment.keyring,
            deployment.settings.skew,
            deployment.notice_answer,
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

"""Values of a store, each sealed for exactly its context, key and version, and opened again.

Knows sealing, and that whoever owns a store may swap, alter or roll back what it holds. Does not
know stores, or what a value means: what follows from one that does not open, its owner decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .._wire import token as sealing
from ..errors import ForgedToken, UnreadableError
from ..keyring import Keyring
from ..storage.contract import LAST_VERSION, Stored


def _to_nobody(_context: str, _reason: str) -> None:
    """Who wants to hear of refused rows says so."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one deployment (`realm`).

    `random`: a function from a number of bytes to that many random ones. `refused` hears of each
    row that does not open: its context, and the reason.
    """

    realm: str
    random: Callable[[int], bytes]
    refused: Callable[[str, str], object] = _to_nobody

    def seal_row(
        self, context: str, key: str, version: int, data: bytes, keyring: Keyring, now: float
    ) -> bytes:
        """What to store under `version`. Raises NoPrimaryKey."""
        primary, entropy = keyring.primary(int(now)), self.random(sealing.ENTROPY_BYTES)
        return sealing.seal(data, self._place(context, key, version), primary, int(now), entropy)

    def open_row(
        self, context: str, key: str, stored: Stored, keyring: Keyring, now: float
    ) -> bytes:
        """What was sealed for this row and the version that it has. Raises UnreadableError."""
        try:
            if not 0 <= stored.version <= LAST_VERSION:
                raise ForgedToken  # nobody proposes such a version
            place = self._place(context, key, stored.version)
            return sealing.open_token(stored.value, place, keyring, int(now)).payload
        except UnreadableError as error:
            self.refused(context, error.reason)
            raise

    def _place(self, context: str, key: str, version: int) -> sealing.TokenContext:
        return sealing.TokenContext(
            "stored", self.realm, (context, key, version.to_bytes(8, "big"))
        )

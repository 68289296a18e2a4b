"""The records that contenders read and write, the same for everybody.

Knows keys, values, versions and when they expire. Does not know who stores them.
"""

from __future__ import annotations

import os
import secrets
import time

from sealedstate.storage.contract import next_version

# Without a common divisor: no record gets the value that it has, of which servers may write less.
RECORDS, VALUES = 64, 17
LIFETIME = 86_400  # seconds
PATIENCE = 10  # seconds: a disk that is busy for a second must not end everything

TEXT = "text"
"""The one name in a session."""


class Load:
    """So many records under keys of 32 characters, and the values that they get in turn.

    `versions` are those that are stored now. The expiry is that of a session: it stays the same.
    """

    def __init__(self, value_bytes: int) -> None:
        self.value_bytes = value_bytes
        self.keys = [f"{number:032d}" for number in range(RECORDS)]
        # Nothing that is sealed can be compressed, and so must nothing here.
        self._values = [os.urandom(value_bytes) for _ in range(VALUES)]
        self._texts = [secrets.token_urlsafe(value_bytes)[:value_bytes] for _ in range(VALUES)]
        self.first_version = next_version(time.time())
        self.versions = [self.first_version] * RECORDS
        self.expires_at = int(time.time()) + LIFETIME  # epoch seconds

    @property
    def expires_at_millis(self) -> int:
        return self.expires_at * 1000

    def new_key(self, number: int) -> str:
        """A key under which there is nothing yet."""
        return f"new-{number:028d}"

    def value(self, number: int) -> bytes:
        return self._values[number % VALUES]

    def text(self, number: int) -> str:
        """As long as a value, for what can't take bytes."""
        return self._texts[number % VALUES]

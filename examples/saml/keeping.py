"""What a member keeps in its own directory: its store, a ring of keys in it, what wraps that ring.

Knows directories and `Settings`. Does not know SAML or pages.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from sealedstate import Key, Settings
from sealedstate.key_sources import KEK_VARIABLE
from sealedstate.storage import open_storage

from .certificates import write_private

IDLE_LIFETIME = 30 * 60
ABSOLUTE_LIFETIME = 8 * 3600


class Keeping:
    """The directory of one member, made if missing. Raises OperatorError or OSError.

    Each member has a store of its own: what they know of one another travels in messages.
    """

    def __init__(self, var: Path, name: str) -> None:
        self.name = name
        self.directory = var / name
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.store = open_storage(f"sqlite:{self.directory / 'state.sqlite'}", time.time)
        self._environ = {KEK_VARIABLE: _kek(self.directory / "kek")}

    def settings(self, realm: str, lifetime: int = ABSOLUTE_LIFETIME, **more: Any) -> Settings:
        """Settings with a ring of their own for `realm`, in the store.

        `lifetime` (seconds): for how long what its keys have made is of use.
        """
        return Settings(
            keys="store:",
            storage=self.store,
            realm=realm,
            idle_lifetime=IDLE_LIFETIME,
            absolute_lifetime=lifetime,
            environ=self._environ,
            cookie_name=self.name,  # all members are on one host, whose ports share its cookies
            secure=False,  # plain http on this machine; leave it out where there is https
            **more,
        )


def _kek(path: Path) -> str:
    """The key that wraps the ring, made at the first start. In earnest it stands elsewhere."""
    if not path.exists():
        write_private(path, Key.generate(os.urandom).export().encode())
    return path.read_text("ascii")

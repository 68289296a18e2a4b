"""What each member keeps in its own directory: a store, and in it a ring of keys."""

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


class MemberResources:
    """The directory of one member, made if missing. Raises OperatorError or OSError.

    Each member has a separate store: what they know of one another travels in messages.
    """

    def __init__(self, var: Path, name: str) -> None:
        self.name = name
        self.directory = var / name
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.store = open_storage(f"sqlite:{self.directory / 'state.sqlite'}", time.time)
        self._environ = {KEK_VARIABLE: _read_kek(self.directory / "kek")}

    def settings(self, realm: str, lifetime: int = ABSOLUTE_LIFETIME, **more: Any) -> Settings:
        """Settings for `realm`, which has a ring in the store.

        `lifetime` (seconds): how long what its keys sealed can be used.
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


def _read_kek(path: Path) -> str:
    """The key that wraps the ring, made at the first start. In production, keep it elsewhere."""
    if not path.exists():
        write_private(path, Key.generate(os.urandom).export().encode())
    return path.read_text("ascii")

"""How the portal keeps its sessions: generated keys, one SQLite file, settings for each profile.

Knows a directory and `Settings`. Does not know requests or pages.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from sealedstate import Key, Settings
from sealedstate.keys import export_lookup
from sealedstate.storage import open_storage

COOKIE_NAME = "portal"
IDLE_LIFETIME = 30 * 60
ABSOLUTE_LIFETIME = 8 * 3600


class Deployment:
    """What all profiles share: the keys and the store in the directory `var`, made if missing.

    Raises ConfigurationError or OSError.
    """

    def __init__(self, var: Path) -> None:
        var.mkdir(mode=0o700, parents=True, exist_ok=True)
        secrets = var / "secrets"
        _make_secrets(secrets)
        self.keys = f"file:{secrets}"
        self.store = open_storage(f"sqlite:{var / 'portal.sqlite'}", time.time)

    def settings(self, profile: str) -> Settings:
        """The settings of the portal in `profile`: the same session in each, only its room differs.

        An application has one profile and writes this down once.
        """
        return Settings(
            keys=self.keys,
            storage=self.store,
            realm="portal",
            profile=profile,
            idle_lifetime=IDLE_LIFETIME,
            absolute_lifetime=ABSOLUTE_LIFETIME,
            # What every request needs stays in the cookie; the service logins may leave it first.
            parts={"csrf": "cookie", "authn": "cookie", "note": "cookie"},
            spill_order=["services", "cart"],
            merge={"services": merge_logins},
            cookie_name=COOKIE_NAME,
            secure=False,  # plain http on this machine; leave it out where there is https
        )


def merge_logins(base: object, theirs: object, ours: object) -> object:
    """Two tabs wrote the service logins at once: keep what either added, drop what either removed.

    `base` is what this request found, `theirs` what another has stored since.
    """
    before, stored, wanted = _by_index(base), _by_index(theirs), _by_index(ours)
    added = {index: login for index, login in wanted.items() if index not in before}
    kept = {
        index: login
        for index, login in stored.items()
        if index in wanted or index not in before  # else it was removed here
    }
    return list((kept | added).values())


def _by_index(logins: object) -> dict[object, object]:
    entries: Iterable[dict[str, object]] = logins if isinstance(logins, list) else []
    return {login["session_index"]: login for login in entries}


def _make_secrets(path: Path) -> None:
    """A file with one sealing key and one lookup key, for its owner's eyes, unless it is there."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(file, "w") as secrets:
        secrets.write(f"{Key.generate(os.urandom).export()}\n{export_lookup(os.urandom(32))}\n")

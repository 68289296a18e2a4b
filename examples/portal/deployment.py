"""How the portal keeps its sessions: a ring of keys, one SQLite file, settings for each profile.

Knows a directory and `Settings`. Does not know requests or pages.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from sealedstate import Settings
from sealedstate.deployment import open_report_store, open_ring_storage
from sealedstate.events import Event, EventLog, Observer
from sealedstate.rotation.source import RotatingKeySource
from sealedstate.storage import open_storage

COOKIE_NAME = "portal"
IDLE_LIFETIME = 30 * 60
ABSOLUTE_LIFETIME = 8 * 3600
REALM = "portal"
# Demo settings, in seconds, for people who watch. Elsewhere leave these four alone: by default they
# are a day, 15 minutes, a minute and a minute, which leaves time for several nodes.
ROTATE_EVERY = 3600
ANNOUNCE = 5
RELOAD_EVERY = 1
SKEW = 1


class Deployment:
    """What all profiles share: the keys and the store in the directory `var`, made if missing.

    Raises ConfigurationError, OperatorError or OSError.
    """

    def __init__(self, var: Path) -> None:
        var.mkdir(mode=0o700, parents=True, exist_ok=True)
        events = EventLog()
        self.keys = _ring(f"file:{var / 'keys.json'}", events)
        self._observers = [_noting(events)]
        self.store = open_storage(f"sqlite:{var / 'portal.sqlite'}", time.time)

    def settings(self, profile: str) -> Settings:
        """The settings of the portal in `profile`: the same session in each, only its room differs.

        An application has one profile and writes this down once, with `keys="file:keys.json"`,
        `rotate_every` and the like. Here one source serves all profiles, so that one thread tends
        the ring.
        """
        return Settings(
            keys=self.keys,
            storage=self.store,
            realm=REALM,
            profile=profile,
            idle_lifetime=IDLE_LIFETIME,
            absolute_lifetime=ABSOLUTE_LIFETIME,
            skew=SKEW,
            # What every request needs stays in the cookie; the service logins may leave it first.
            part_policies={"csrf": "cookie", "authn": "cookie", "note": "cookie"},
            spill_order=["services", "cart"],
            merge={"services": merge_logins},
            cookie_name=COOKIE_NAME,
            observers=self._observers,
            secure=False,  # plain http on this machine; leave it out where there is https
        )


def _ring(keys: str, events: EventLog) -> RotatingKeySource:
    """The ring of keys, begun if there is none, as `sealedstate keys init` would begin it."""
    settings = Settings(
        keys=keys,
        realm=REALM,
        idle_lifetime=IDLE_LIFETIME,
        absolute_lifetime=ABSOLUTE_LIFETIME,
        skew=SKEW,
        rotate_every=ROTATE_EVERY,
        announce=ANNOUNCE,
        reload_every=RELOAD_EVERY,
    )
    home, board = open_ring_storage(settings), open_report_store(settings)
    return RotatingKeySource(home, settings.rotation(), events, board, creates_missing=True)


def _noting(events: EventLog) -> Observer:
    """Notes what happens in any profile, so that `sealedstate keys list` counts all cookies."""

    def note(event: Event) -> None:
        kid = None if event.kid is None else bytes.fromhex(event.kid)
        events.emit(event.name, event.reason, kid=kid)

    return note


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

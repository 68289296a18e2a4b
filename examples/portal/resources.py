"""What the portal opens at its start: two rings of keys, one SQLite file, and the settings."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sealedstate import Settings
from sealedstate._key_opening import KeySources
from sealedstate.events import Event, EventLog
from sealedstate.rotation import Schedule
from sealedstate.rotation.source import RotatingKeySource, RotationConfig
from sealedstate.sso import Identifiers, LoginRecords, load_registry
from sealedstate.storage import Storage, open_storage

from .catalogue import REGISTRY
from .logins import AUTHENTICATIONS, FORM, PLAIN, RECORD, merge_plain

COOKIE_NAME = "portal"
REALM = "portal"
IDLE_LIFETIME = 30 * 60
ABSOLUTE_LIFETIME = 8 * 3600
# Demo settings, in seconds, for people who watch. Elsewhere leave these four alone: by default they
# are a day, 15 minutes, a minute and a minute, which leaves time for several nodes.
ROTATE_EVERY = 3600
ANNOUNCE = 5
RELOAD_EVERY = 1
SKEW = 1


class PortalResources:
    """What all profiles share: keys, store and login records in the directory `var`.

    Makes the directory and the keys where they are missing. Raises ConfigurationError,
    OperatorError or OSError.
    """

    def __init__(self, var: Path) -> None:
        var.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._events = EventLog()
        self.keys = self._open_ring(var / "keys.json", ABSOLUTE_LIFETIME + SKEW)
        self.store = open_storage(f"sqlite:{var / 'portal.sqlite'}", time.time)
        # Identifiers that services know must lead back to the session for as long as it lives.
        self.identifier_keys = self._open_ring(var / "identifiers.json", ABSOLUTE_LIFETIME + 86400)
        self.records = LoginRecords(
            load_registry(REGISTRY),
            Identifiers(self.identifier_keys, realm=REALM),
            head=AUTHENTICATIONS,
            columns=RECORD,
        )

    def close(self) -> None:
        """End the threads that rotate the rings, and close the store."""
        self.keys.close()
        self.identifier_keys.close()
        self.store.close()

    def settings(self, profile: str) -> Settings:
        """The settings of the portal in `profile`: the same session in each, only its room differs.

        An application has one profile and writes this down once, with `keys="file:keys.json"`,
        `rotate_every` and the like. Here one source serves all profiles, so that one thread tends
        the ring.
        """
        return self._settings(profile, self.store)

    def settings_without_store(self, profile: str) -> Settings:
        """The same with nothing but cookies, to weigh what they would take."""
        return self._settings(profile, None)

    def _settings(self, profile: str, store: Storage | None) -> Settings:
        return Settings(
            keys=self.keys,
            storage=store,
            realm=REALM,
            profile=profile,
            idle_lifetime=IDLE_LIFETIME,
            absolute_lifetime=ABSOLUTE_LIFETIME,
            skew=SKEW,
            # What every request needs stays in the cookie; the service logins may leave it first.
            parts=dict.fromkeys(("csrf", AUTHENTICATIONS, FORM, "note"), "cookie"),
            spill_order=[PLAIN, RECORD, "cart"],
            merge={**self.records.merge_rules, PLAIN: merge_plain},
            cookie_name=COOKIE_NAME,
            observers=[self._pass_on] if store else [],
            secure=False,  # plain http on this machine; leave it out where there is https
        )

    def _open_ring(self, path: Path, lifetime: int) -> RotatingKeySource:
        """The ring of keys, begun if there is none, as `sealedstate keys init` would begin it."""
        schedule = Schedule(ROTATE_EVERY, ANNOUNCE, lifetime, SKEW)
        config = RotationConfig(
            schedule, RELOAD_EVERY, lifetime, SKEW, True, time.time, time.monotonic, os.urandom
        )
        sources = KeySources(os.environ, SKEW, REALM, None, config, self._events)
        home, board = sources.ring_home(f"file:{path}"), sources.report_board(f"file:{path}")
        return RotatingKeySource(home, config, self._events, board, founds=True)

    def _pass_on(self, event: Event) -> None:
        """Count what happens in any profile, so that `sealedstate keys list` knows all cookies."""
        kid = None if event.kid is None else bytes.fromhex(event.kid)
        self._events.emit(event.name, event.reason, kid=kid)

"""What the portal opens at its start: two rings of keys, one SQLite file, and the settings."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from sealedstate import Settings
from sealedstate.deployment import Deployment, open_report_store, open_ring_storage
from sealedstate.events import Event, EventLog
from sealedstate.rotation.source import RotatingKeySource
from sealedstate.sso import Identifiers, LoginRecords, load_registry
from sealedstate.storage import open_storage

from .catalogue import REGISTRY
from .logins import AUTHENTICATIONS, FORM, PLAIN, RECORD, merge_plain

COOKIE_NAME = "portal"
REALM = "portal"
IDLE_LIFETIME = 30 * 60
ABSOLUTE_LIFETIME = 8 * 3600
# Identifiers that services know must lead back to a session for as long as it lives, and a day.
IDENTIFIER_LIFETIME = ABSOLUTE_LIFETIME + 86400
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
        self.identifier_keys = self._open_ring(
            Settings(keys=f"file:{var / 'identifiers.json'}", absolute_lifetime=IDENTIFIER_LIFETIME)
        )
        self.records = LoginRecords(
            load_registry(REGISTRY),
            Identifiers(self.identifier_keys, realm=REALM),
            head=AUTHENTICATIONS,
            columns=RECORD,
        )
        self.store = open_storage(f"sqlite:{var / 'portal.sqlite'}", time.time)
        self.settings = Settings(
            keys=f"file:{var / 'keys.json'}",
            rotate_every=ROTATE_EVERY,
            announce=ANNOUNCE,
            reload_every=RELOAD_EVERY,
            skew=SKEW,
            storage=self.store,
            realm=REALM,
            idle_lifetime=IDLE_LIFETIME,
            absolute_lifetime=ABSOLUTE_LIFETIME,
            # What every request needs stays in the cookie; the service logins may leave it first.
            part_policies=dict.fromkeys(("csrf", AUTHENTICATIONS, FORM, "note"), "cookie"),
            spill_order=[PLAIN, RECORD, "cart"],
            merge={**self.records.merge_rules, PLAIN: merge_plain},
            cookie_name=COOKIE_NAME,
            observers=[self._pass_on],
            secure=False,  # plain http on this machine; leave it out where there is https
        )
        self.keys = self._open_ring(self.settings)

    def open(self, profile: str) -> Deployment:
        """The portal in `profile`: the same sessions in each, only their room differs.

        An application has one profile, and passes its settings to the middleware. Here all
        profiles share a key source, so that one thread rotates the keys.
        """
        return Deployment.open(replace(self.settings, profile=profile), keys=self.keys)

    def open_without_store(self, profile: str) -> Deployment:
        """The same with nothing but cookies, to weigh what they would carry."""
        settings = replace(self.settings, profile=profile, storage=None, observers=())
        return Deployment.open(settings, keys=self.keys)

    def close(self) -> None:
        """End the threads that rotate the rings, and close the store."""
        self.keys.close()
        self.identifier_keys.close()
        self.store.close()

    def _open_ring(self, settings: Settings) -> RotatingKeySource:
        """The ring of `settings`, created if missing, as `sealedstate keys init` creates it."""
        home, reports = open_ring_storage(settings), open_report_store(settings)
        return RotatingKeySource(
            home, settings.rotation(), self._events, reports, creates_missing=True
        )

    def _pass_on(self, event: Event) -> None:
        """Count what happens in any profile, so that `sealedstate keys list` knows all cookies."""
        kid = None if event.kid is None else bytes.fromhex(event.kid)
        self._events.emit(event.name, event.reason, kid=kid)

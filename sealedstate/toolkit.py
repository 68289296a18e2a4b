"""What the steps of a request share: settings, tokens, the store's services, and the journal.

Knows how they are made from settings. Does not know what a request does with them.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter

from .revocation import Revocations
from .settings import Settings
from .spilling import Spiller
from .storage import USES, Storage, mismatch
from .tokens import Tokens

log = logging.getLogger("sealedstate")


class Toolkit:
    """The tools of one application."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cookies = settings.cookies
        self.tokens = Tokens(
            settings.cookies.name, settings.realm, settings.key_source, settings.random
        )
        self.spiller: Spiller | None = None
        self.revocations: Revocations | None = None
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        if settings.store is not None:
            self.spiller = Spiller(settings.store, settings.realm, settings.random)
            self.revocations = Revocations(settings.store, settings.realm, self._lookup)
            self._warn_of(settings.store)

    def now(self) -> float:
        """Epoch seconds, as the settings' clock says."""
        return self.settings.clock()

    @property
    def counts(self) -> Counter[str]:
        """How often each event was noted, as a copy."""
        with self._lock:
            return self._counts.copy()

    def note(self, event: str, session_id: bytes | None = None) -> None:
        """Count and log an event; of a session, only a digest of its id."""
        with self._lock:
            self._counts[event] += 1
        digest = (
            "-" if session_id is None else hashlib.blake2b(session_id, digest_size=8).hexdigest()
        )
        log.info("%s session=%s", event, digest)

    def _warn_of(self, store: Storage) -> None:
        """Say it at the start when a logout will not hold as long, or as far, as it should."""
        name = type(store).__name__.removesuffix("Storage").lower()
        sentence = mismatch(USES["revocation"], name, store.capabilities)
        if sentence is not None:
            log.warning("a logout will not hold everywhere: %s", sentence)

    def _lookup(self) -> bytes | None:
        return self.tokens.keyring().lookup

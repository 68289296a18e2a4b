"""Messages that were seen, so that none counts twice.

    if not replays.admit(issuer, message_id, expires_at, now):
        ...  # refuse the message

Knows (issuer, message id), expiry, and that `create` has one winner. Does not know what a message
says or how it is signed: it is asked once a message is known to be authentic, and before it is
acted upon.

A row's key is a keyed hash of issuer and id; its value are random bytes by which whoever wrote it
knows it again, should the reply get lost. So nothing can be read in the store, and no sealing key
is needed. Whoever can delete rows there, can have a message counted twice.

Clocks: a message may be used until `skew` after it says that it expires, and is remembered for
twice that, because the node that removes the row may have a clock that is ahead.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Self

from ..deployment import Deployment
from ..errors import ConfigurationError, OutcomeUnknown, StorageError
from ..storage.contract import millis, next_version
from .deployment import SsoDeployment

CONTEXT = "sealedstate.sso.replay"
CLAIM_BYTES = 16
LONGEST = 86400

log = logging.getLogger("sealedstate")


@dataclass(frozen=True, slots=True)
class ReplayCache:
    """Remembers the messages of one deployment, on all its nodes.

    `longest` (seconds): from now to the expiry of a message. One that says a later one is refused,
    for it would have to be remembered for so long.
    """

    deployment: SsoDeployment
    longest: int = LONGEST

    def __post_init__(self) -> None:
        if type(self.longest) is not int or self.longest <= 0:
            raise ConfigurationError("longest: a whole number of seconds from 1 on")

    @classmethod
    def of(cls, deployment: Deployment, longest: int = LONGEST) -> Self:
        """That of `settings`.

        Raises ConfigurationError: no store, an unfit one, no lookup key, no such `longest`.
        """
        shared = SsoDeployment.of(deployment, "replay")
        shared.lookup()
        return cls(shared, longest)

    def admit(self, issuer: str, message_id: str, expires_at: float, now: float) -> bool:
        """Whether a message may be acted upon: of all who ask for it, on all nodes, one is told so.

        `issuer` (an entityID) and `message_id` are text of any length. `expires_at` (epoch
        seconds): until when the message says that it can be used. False for one that was seen, has
        expired, expires later than `longest` from now, or has no issuer or id that is text; and
        where a reply of the store got lost and nobody can tell. Raises StorageError where nothing
        was written: then the message may be tried again.
        """
        key = self._key(issuer, message_id)
        if key is None or not self._is_timely(expires_at, now):
            log.info("a message is not admitted: no issuer, no id, expired, or too long valid")
            return False
        claim = self.deployment.rows.random(CLAIM_BYTES)
        first = self._claimed(key, claim, millis(expires_at + 2 * self.deployment.skew), now)
        self.deployment.answered()
        return first

    def _key(self, issuer: str, message_id: str) -> str | None:
        # Bytes would be hashed like the same text, so that two callers' messages became one.
        if type(issuer) is not str or type(message_id) is not str:
            return None
        if not issuer or not message_id:
            return None
        try:
            return self.deployment.keyed_name("replay", issuer, message_id)
        except UnicodeEncodeError:  # a lone surrogate: no message that was sent has one
            return None

    def _is_timely(self, expires_at: float, now: float) -> bool:
        """Also false for what is no number."""
        skew = self.deployment.skew
        return now - skew < expires_at <= now + self.longest + skew

    def _claimed(self, key: str, claim: bytes, until: int, now: float) -> bool:
        storage, version = self.deployment.storage, next_version(now)
        try:
            return storage.create(CONTEXT, key, claim, until, version)
        except OutcomeUnknown:
            # Only the reply is lost: asking again finds out whose claim stands.
            log.info("a claim was not answered, and is made again")
        try:
            # Should the first one still be on its way, this one shuts it out.
            if storage.create(CONTEXT, key, claim, until, version):
                return True
            stored = storage.read(CONTEXT, key)
        except StorageError as error:
            log.warning("a message counts as replayed, for nobody can tell: %s", error)
            return False
        return stored is not None and stored.value == claim

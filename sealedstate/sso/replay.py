"""A replay cache: of all nodes that receive a message, one may act upon it, once.

    if not replays.admit(issuer, message_id, expires_at):
        ...  # refuse the message

Ask after the message's signature was checked and before anything follows from it.

A row of the context ``sealedstate.sso.replay`` (see docs/format.md) has a name that only the
ring's lookup secret gives, and 16 random bytes, by which the node that wrote the row
recognises it if the reply is lost. So the store reveals nothing about messages, and no
sealing key is needed. An owner of the store who deletes a row can have a message admitted
twice.

A message may be used until `skew` seconds after its expiry, and is remembered for
twice that, because the clock of the node that removes the row may be ahead.
"""

from __future__ import annotations

import logging

from .._stored.table import Kind
from ..deployment import Deployment
from ..errors import ConfigurationError, OutcomeUnknown, show_value
from ..storage.contract import millis
from .logins import check_seconds

__all__ = ["ReplayCache"]

KIND = Kind("sealedstate.sso.replay", "replay", "a claim", is_sealed=False)
CLAIM_BYTES = 16
LONGEST = 86400

log = logging.getLogger("sealedstate")


class ReplayCache:
    """Remembers the messages that were admitted on any node of one deployment.

    `longest`: seconds from now to the latest expiry that is accepted, because a message
    must be remembered until then. Raises ConfigurationError for a bad `longest`, without a
    store or a lookup key, and if the store falls short of the requirements of ``replay``.
    """

    def __init__(self, deployment: Deployment, longest: int = LONGEST) -> None:
        if type(longest) is not int or longest <= 0:
            raise ConfigurationError(
                f"longest: must be a whole number of seconds, at least 1; got {show_value(longest)}"
            )
        deployment.require("replay")
        self._deployment, self._table = deployment, deployment.table(KIND)
        deployment.lookup_secret()
        self.longest = longest

    def admit(self, issuer: str, message_id: str, expires_at: float) -> bool:
        """Whether this caller, and no other on any node, may act upon a message.

        `issuer` (an entityID) and `message_id` are texts of any length. `expires_at`: the
        message's own expiry, in epoch seconds. False for a message that was admitted
        before, has expired, expires more than `longest` seconds from now, or has no issuer
        or id; and if replies of the store were lost, so that the first caller is unknown.
        Raises StorageError if nothing was written; then the message may be tried again; and
        UnsupportedValue for an expiry that is no number, such as a datetime or a text.
        """
        check_seconds("expires_at", expires_at, "epoch seconds")
        key, now = self._key(issuer, message_id), self._deployment.now()
        skew = self._deployment.settings.skew
        # The comparison is also false for NaN.
        if key is None or not now - skew < expires_at <= now + self.longest + skew:
            log.info("a message is not admitted: no issuer or id, expired, or valid for too long")
            return False
        claim = self._deployment.random(CLAIM_BYTES)
        try:
            return self._table.create(key, claim, millis(expires_at + 2 * skew))
        except OutcomeUnknown as error:
            log.warning(
                "a message counts as replayed because the first caller is unknown: %s", error
            )
            return False

    def _key(self, issuer: str, message_id: str) -> str | None:
        # Bytes would be hashed like the same text, and could use up another caller's message.
        if type(issuer) is not str or type(message_id) is not str or not (issuer and message_id):
            return None
        try:
            return self._table.guessable_key(issuer, message_id)
        except UnicodeEncodeError:  # a lone surrogate, which no received message contains
            return None

"""A replay cache: of all nodes that receive a message, one may act upon it, once.

    if not replays.admit(issuer, message_id, expires_at):
        ...  # refuse the message

Ask after the message's signature was checked and before anything follows from it. The answer is
an `Admission`, which also says why not. For forms and links, whose text a protector sealed:

    admission = replays.admit_text(forms, request.form["ticket"], bound_to=session.id)

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
from enum import Enum

from .._stored.table import Kind
from ..deployment import Deployment
from ..errors import ConfigurationError, OutcomeUnknown, ProtectedTextRefused, show_value
from ..protector import Protector
from ..storage.contract import millis
from .logins import check_seconds

__all__ = ["Admission", "ReplayCache"]

KIND = Kind("sealedstate.sso.replay", "replay", "a claim", is_sealed=False)
CLAIM_BYTES = 16
LONGEST = 86400

log = logging.getLogger("sealedstate")


class Admission(Enum):
    """Whether a caller may act upon a message, and if not, why. Only ADMITTED is true.

    SEEN: a message was admitted before. STALE: it has expired. FOREIGN: it is not for this
    place: made for another session or application, altered, without issuer or id, or valid for
    longer than the cache remembers. UNKNOWN: the store's replies were lost, so another caller
    may have been the first.
    """

    ADMITTED = "admitted"
    SEEN = "seen"
    STALE = "stale"
    FOREIGN = "foreign"
    UNKNOWN = "unknown"

    def __bool__(self) -> bool:
        return self is Admission.ADMITTED


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

    def admit(self, issuer: str, message_id: str, expires_at: float) -> Admission:
        """Whether this caller, and no other on any node, may act upon a message.

        `issuer` (an entityID) and `message_id` are texts of any length. `expires_at`: the
        message's own expiry, in epoch seconds. FOREIGN for a message that expires more than
        `longest` seconds from now, or has no issuer or id. Raises StorageError if nothing was
        written; then the message may be tried again; and UnsupportedValue for an expiry that is
        no number, such as a datetime or a text.
        """
        check_seconds("expires_at", expires_at, "epoch seconds")
        key, now = self._key(issuer, message_id), self._deployment.now()
        skew = self._deployment.settings.skew
        # Written so that NaN is foreign.
        if key is None or not expires_at <= now + self.longest + skew:
            log.info("a message is not admitted: no issuer or id, or valid for too long")
            return Admission.FOREIGN
        if expires_at <= now - skew:
            log.info("a message is not admitted: it has expired")
            return Admission.STALE
        return self._claim(key, expires_at)

    def admit_text(
        self, protector: Protector, text: str, bound_to: str | bytes | None = None
    ) -> Admission:
        """Whether this caller, and no other on any node, may act upon a text of `protector`.

        `text` may be anything that a request brings, `bound_to` as for `Protector.open`. FOREIGN
        for a text that does not open, STALE for an expired one. Raises ConfigurationError if the
        protector's `max_age` is more than `longest`, ProtectedTextWithheld, and StorageError as
        `admit` does.
        """
        if protector.max_age > self.longest:
            raise ConfigurationError(
                f"longest: must be at least the max_age of the protector {protector.name!r},"
                f" {protector.max_age} seconds; got {self.longest}"
            )
        try:
            protector.open(text, bound_to)
        except ProtectedTextRefused as error:
            return Admission.STALE if error.reason == "expired" else Admission.FOREIGN
        # A text has one spelling. It may be sealed by a clock that is ahead by two skews.
        key = self._table.guessable_key(f"protector/{protector.name}", text)
        latest = self._deployment.now() + 2 * self._deployment.settings.skew
        return self._claim(key, latest + protector.max_age)

    def _claim(self, key: str, expires_at: float) -> Admission:
        claim, skew = self._deployment.random(CLAIM_BYTES), self._deployment.settings.skew
        try:
            is_first = self._table.create(key, claim, millis(expires_at + 2 * skew))
        except OutcomeUnknown as error:
            log.warning(
                "a message counts as replayed because the first caller is unknown: %s", error
            )
            return Admission.UNKNOWN
        return Admission.ADMITTED if is_first else Admission.SEEN

    def _key(self, issuer: str, message_id: str) -> str | None:
        # Bytes would be hashed like the same text, and could use up another caller's message.
        if type(issuer) is not str or type(message_id) is not str or not (issuer and message_id):
            return None
        try:
            return self._table.guessable_key(issuer, message_id)
        except UnicodeEncodeError:  # a lone surrogate, which no received message contains
            return None

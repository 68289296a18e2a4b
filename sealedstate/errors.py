"""Every error of sealedstate, grouped by the person who must act.

`UsageError`: the developer changes code or configuration. `OperatorError`: the operator checks a
store, a key, a file or a clock. `UnreadableError`: no one acts, the visitor starts a new session;
it never leaves the keeper. Facts are attributes, so callers compare types and never messages. No
message contains a cookie value, a key or the content of a session.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

# Not listed are the kinds of UnreadableError: users of the keeper only see their reasons.
__all__ = [
    "CapacityError",
    "ConfigurationError",
    "IdentifierKeyMissing",
    "LateRead",
    "LateWrite",
    "LoginsUnreadable",
    "LogoutRequestMismatch",
    "MetadataUnreadable",
    "NoPrimaryKey",
    "NotSignedIn",
    "OperatorError",
    "OutcomeUnknown",
    "ProtectedTextRefused",
    "ProtectedTextWithheld",
    "RegistryMissing",
    "RegistryUnreadable",
    "RowUnreadable",
    "SealedStateError",
    "SessionIdChanged",
    "SessionTooLarge",
    "SessionWithheld",
    "StorageError",
    "StorageUnavailable",
    "UnreadableError",
    "UnreadablePart",
    "UnsupportedValue",
    "UsageError",
    "VersionMismatch",
]


_KEY = re.compile(r"(sealedstate-(?:key|lookup)-1):[\w:-]+", re.IGNORECASE)


def hide_keys(text: str) -> str:
    """`text` without keys: a user may give one in the place of a path or a name."""
    return _KEY.sub(r"\1:...", text)


class SealedStateError(Exception):
    """The root of every error that sealedstate raises."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(hide_keys(x) if isinstance(x, str) else x for x in arguments))


# --- the developer acts -------------------------------------------------------------------------


class UsageError(SealedStateError):
    """The developer must change code or configuration."""


class ConfigurationError(UsageError, ValueError):
    """A setting is missing, unknown or contradictory; raised before any request."""


class UnsupportedValue(UsageError, TypeError):
    """A value that a session cannot contain.

    `path` leads to the value, as in ``session['cart'][3]``; `problem` says what is wrong with it.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class SessionTooLarge(UsageError):
    """The parts do not fit into the cookies, and cannot be stored elsewhere.

    There is no store for them, or their policy forbids one. `parts` maps the name of each part to
    its size in bytes; `room` is what the cookies could carry, in bytes.
    """

    def __init__(self, parts: Mapping[str, int], room: int, why: str) -> None:
        sizes = ", ".join(
            f"{name} {size}" for name, size in sorted(parts.items(), key=lambda item: -item[1])
        )
        super().__init__(
            f"the session does not fit: {sum(parts.values())} bytes of parts for {room} bytes"
            f" of cookie room ({why}); bytes by part: {sizes or 'none'}"
        )
        self.parts = dict(parts)
        self.room = room


class LateWrite(UsageError):
    """The session was changed after the response headers, too late for a cookie."""


class LateRead(UsageError):
    """The session was first read after the response headers, too late for Vary."""


class NotSignedIn(UsageError):
    """The session has no subject, but login records belong to one."""


class LogoutRequestMismatch(UsageError):
    """A logout request matches no service login of the session."""


# --- the operator acts --------------------------------------------------------------------------


class OperatorError(SealedStateError):
    """The operator must check a store, a key, a file or a clock."""


class NoPrimaryKey(OperatorError):
    """No key is active: all are pending, expired, revoked or disabled."""


class SessionWithheld(OperatorError):
    """The cookies could not be judged (`reason`), so there was no logout."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the session of this request is withheld ({reason}); it was not logged out"
        )
        self.reason = reason


class ProtectedTextWithheld(OperatorError):
    """A protector's text that this node cannot judge now; another node, or a later try, may.

    An application answers 503 and keeps the text. `reason`: ``"kid-unknown"``, ``"kid-disabled"``,
    ``"format-unknown"``, ``"not-yet"`` or ``"record"``, as events have it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the text cannot be judged now ({reason}); try again")
        self.reason = reason


class StorageError(OperatorError):
    """The storage service did not do what it was asked to do."""


class StorageUnavailable(StorageError):
    """The store is unreachable, locked, full or read-only. Nothing was written."""


class RowUnreadable(StorageUnavailable):
    """This node cannot read a stored value that another node or release can read."""


class OutcomeUnknown(StorageError):
    """The store may or may not have written, and may still write.

    The request may still be on its way. `version` is what a `create` or `update` proposed: if it is
    read back, the write has happened. Until then, another write excludes a late one: an `update` to
    a greater version, or another `create`. For all other writes `version` is None: read the value
    back, and repeat the write if necessary. A late `delete_context`, or a late `delete` that
    expects no version, also deletes what was created in the meantime.
    """

    def __init__(self, message: str, version: int | None = None) -> None:
        super().__init__(message)
        self.version = version


class CapacityError(StorageError):
    """A context, key or value is empty, or larger than the store allows."""


class VersionMismatch(StorageError):
    """A checked write found another version: `current` is in the store."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the version in the store is {current}, not the expected one")
        self.current = current


class UnreadablePart(OperatorError):
    """An authentic part that this release cannot decode; it is kept.

    A newer release wrote it.
    """


# An identity provider's errors about stored logins cost no login: an application may catch
# LoginsUnreadable, report it, and continue without the service logins.


class LoginsUnreadable(UnreadablePart):
    """Login records in bytes that this release does not write."""


class RegistryMissing(LoginsUnreadable):
    """Service logins need a registry `version` that this node does not have.

    The node's file is outdated, or was created again instead of being appended to.
    """

    def __init__(self, version: int) -> None:
        super().__init__(f"service logins need version {version} of a registry that is not here")
        self.version = version


class IdentifierKeyMissing(LoginsUnreadable):
    """Service logins need the identifier key `kid`, which is not in the ring."""

    def __init__(self, kid: bytes) -> None:
        super().__init__(f"service logins need the identifier key {kid.hex()}, which is not here")
        self.kid = kid


class SessionIdChanged(LoginsUnreadable):
    """Identifiers were derived from an earlier id of the session."""


class RegistryUnreadable(OperatorError):
    """A registry file is missing or invalid, or would lose or change an entry."""


class MetadataUnreadable(OperatorError):
    """A metadata file is not XML, or has a document type declaration."""


# --- no one acts --------------------------------------------------------------------------------


class ProtectedTextRefused(SealedStateError):
    """A text from outside that no protector opens; an application answers 400 or so.

    `reason` is for logs: ``"malformed"`` (no text of a protector), ``"invalid"`` (altered, or made
    for another name, realm or `bound_to`), ``"expired"``, ``"revoked"`` (its key, or all that was
    sealed at its time), ``"unknown"`` (no node has its key any more), or ``"not-yet"``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the text is refused ({reason})")
        self.reason = reason


class UnreadableError(SealedStateError):
    """A token that opens no session.

    `reason` is for logs and counters, never for the client. `keeps_cookie`: another node, release
    or moment may be able to read it, so the browser's cookies must be neither deleted nor
    overwritten. `kid`: the key that the token names, if it is known. `claimed_at`: when a token
    whose key or format is unknown claims to be sealed (epoch seconds), which is not verified.
    """

    reason: ClassVar[str] = "unreadable"
    keeps_cookie: ClassVar[bool] = False

    def __init__(
        self, *arguments: object, kid: bytes | None = None, claimed_at: int | None = None
    ) -> None:
        super().__init__(*arguments)
        self.kid = kid
        self.claimed_at = claimed_at


class MalformedToken(UnreadableError):
    """No token: too short, not canonical, or begun with a byte that begins no format."""

    reason = "malformed"


class UnknownFormat(UnreadableError):
    """The token is of a newer format, which this release does not read."""

    reason = "format-unknown"
    keeps_cookie = True

    def __init__(self, kid: bytes, claimed_at: int) -> None:
        text = f"a format that this release does not read, key {kid.hex()}"
        super().__init__(text, kid=kid, claimed_at=claimed_at)


class UnknownKey(UnreadableError):
    """No key of the ring has this kid; perhaps this node's ring is outdated."""

    reason = "kid-unknown"
    keeps_cookie = True

    def __init__(self, kid: bytes, claimed_at: int | None = None) -> None:
        super().__init__(f"no key {kid.hex()} in the ring", kid=kid, claimed_at=claimed_at)


class KeyOutOfUse(UnreadableError):
    """The key is revoked or expired, or did not seal at the time of the token."""

    reason = "kid-refused"


class KeyDisabled(UnreadableError):
    """The key is disabled. That can be undone, so the cookie is kept."""

    reason = "kid-disabled"
    keeps_cookie = True


class SealedBefore(UnreadableError):
    """Sealed before the time from which the operator trusts cookies again."""

    reason = "sealed-before"


class ForgedToken(UnreadableError):
    """The tag does not match: altered, or sealed for another context."""

    reason = "tag"


class MalformedRecord(UnreadableError):
    """The payload of an authentic token is not one that this release writes."""

    reason = "record"
    keeps_cookie = True


class UnknownField(UnreadableError):
    """An authentic record with a critical field of a newer release.

    `session_id`, `subject`, `created_at`, `expires_at` and `sealed_at` (epoch seconds) are the
    record's: enough to end the session, and to say until when its cookie can be kept.
    """

    reason = "field-unknown"
    keeps_cookie = True

    def __init__(
        self,
        session_id: bytes,
        subject: str | None,
        created_at: int,
        expires_at: int,
        sealed_at: int,
    ) -> None:
        super().__init__("a critical field that this release does not know")
        self.session_id = session_id
        self.subject = subject
        self.created_at = created_at
        self.expires_at = expires_at
        self.sealed_at = sealed_at


class ExpiredSession(UnreadableError):
    """The session is past its idle or absolute lifetime."""

    reason = "expired"


class FutureSession(UnreadableError):
    """Sealed more than the skew in the future: some clock is wrong."""

    reason = "not-yet"
    keeps_cookie = True


class RevokedSession(UnreadableError):
    """The session was logged out, or all sessions of its subject were."""

    reason = "revoked"


class ReplacedSession(UnreadableError):
    """Another request gave the session a new id; its cookie may be on its way."""

    reason = "replaced"
    keeps_cookie = True


class CrowdedCookie(UnreadableError):
    """More cookies have our name than are tried, and no tried one opens."""

    reason = "crowded"
    keeps_cookie = True


class AmbiguousSession(UnreadableError):
    """Two authentic sessions have the same cookie name: neither is used."""

    reason = "ambiguous"
    keeps_cookie = True


class UncheckedSession(UnreadableError):
    """The store that has the revocations did not answer."""

    reason = "store-down"
    keeps_cookie = True

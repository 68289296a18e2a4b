"""Every error of sealedstate, grouped by who must act.

`UsageError`: the developer changes code or configuration. `OperatorError`: the operator looks at a
store, a key or a disk. `UnreadableError`: nobody acts, the visitor starts a new session; it never
leaves the keeper. Facts stand in attributes, so callers ask the type and never the message. No
message carries a cookie value, a key or a session's content.

Knows no other module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class SealedStateError(Exception):
    """The root of every error that sealedstate raises."""


# --- the developer acts -------------------------------------------------------------------------


class UsageError(SealedStateError):
    """The developer must change code or configuration."""


class ConfigurationError(UsageError, ValueError):
    """A setting is missing, unknown or contradicts another; raised before any request."""


class UnsupportedValue(UsageError, TypeError):
    """A value that the codec does not carry. `path` leads to it, as in ``session['cart'][3]``."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class SessionTooLarge(UsageError):
    """The parts fit neither into the cookies nor, for want of a store or of leave, outside them.

    `parts` maps each part's name to its size in bytes; `room` is what the cookies could carry.
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
    """The session was changed after the response's headers went out, so no cookie can carry it."""


class LateRead(UsageError):
    """The session was first looked at after the headers went out, so no Vary can tell caches."""


# --- the operator acts --------------------------------------------------------------------------


class OperatorError(SealedStateError):
    """The operator must look: a store, a key, a disk, a clock."""


class NoPrimaryKey(OperatorError):
    """No key of the ring may seal now: all are pending, expired, revoked or disabled."""


class SessionWithheld(OperatorError):
    """The cookies could not be judged (`reason`), so a logout can't be promised for them."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the session of this request is withheld ({reason}); it was not logged out"
        )
        self.reason = reason


class UnreadablePart(OperatorError):
    """An authentic part that this release can't decode: a newer one wrote it, and it is kept."""


class StorageError(OperatorError):
    """The storage service did not do what was asked."""


class StorageUnavailable(StorageError):
    """The store could not be reached, is locked, full or read-only; nothing was written."""


class OutcomeUnknown(StorageError):
    """The store may or may not have written, and may still do so: the request may be on its way.

    `version` is what a `create` or `update` proposed: once it is read back, the write has happened.
    While it is not, writing anew shuts a late one out: an `update` to a greater version, or another
    `create`. For all other writes it is None: read back, and do it again if need be. A late
    `delete_context`, or a `delete` that expects no version, takes what was created meanwhile.
    """

    def __init__(self, message: str, version: int | None = None) -> None:
        super().__init__(message)
        self.version = version


class CapacityError(StorageError):
    """A context, key or value is larger than the store's capabilities allow, or is empty."""


class VersionMismatch(StorageError):
    """A checked write found another version; `current` is the one that the store holds."""

    def __init__(self, current: int) -> None:
        super().__init__("the stored version is another one")
        self.current = current


# --- nobody acts --------------------------------------------------------------------------------


class UnreadableError(SealedStateError):
    """A token that opens no session. `reason` goes to the log and to counters, never outside.

    `keeps_cookie`: another node, version or moment may well read it, so that the visitor's cookies
    must neither be deleted nor be overwritten.
    """

    reason: ClassVar[str] = "unreadable"
    keeps_cookie: ClassVar[bool] = False
    # The key that it names, where one could be told.
    kid: bytes | None = None


class MalformedToken(UnreadableError):
    """Too short, too long, or not canonical text."""

    reason = "malformed"


class UnknownFormat(UnreadableError):
    """The format byte is of a version that this release does not read."""

    reason = "format-unknown"
    keeps_cookie = True


class UnknownKey(UnreadableError):
    """No key of the ring has this kid: perhaps this node's ring lags behind."""

    reason = "kid-unknown"
    keeps_cookie = True

    def __init__(self, kid: bytes) -> None:
        super().__init__(f"no key {kid.hex()} in the ring")
        self.kid = kid


class KeyOutOfUse(UnreadableError):
    """The key is revoked or expired, or did not seal at the time that the token states."""

    reason = "kid-refused"

    def __init__(self, kid: bytes | None = None) -> None:
        super().__init__()
        self.kid = kid


class KeyDisabled(UnreadableError):
    """The key is disabled, which can be undone: the cookie is kept."""

    reason = "kid-disabled"
    keeps_cookie = True

    def __init__(self, kid: bytes | None = None) -> None:
        super().__init__()
        self.kid = kid


class SealedBefore(UnreadableError):
    """Sealed before the moment from which the operator trusts cookies again."""

    reason = "sealed-before"


class ForgedToken(UnreadableError):
    """The tag does not match: altered, or sealed for another place."""

    reason = "tag"


class MalformedRecord(UnreadableError):
    """An authentic token with a content that this release does not understand."""

    reason = "record"
    keeps_cookie = True


class ExpiredSession(UnreadableError):
    """Past its idle or absolute lifetime."""

    reason = "expired"


class FutureSession(UnreadableError):
    """Sealed later than now by more than the skew: some clock is wrong."""

    reason = "not-yet"
    keeps_cookie = True


class RevokedSession(UnreadableError):
    """Logged out, or all sessions of its subject were."""

    reason = "revoked"


class ReplacedSession(UnreadableError):
    """A moment ago it got a new id elsewhere: that cookie is on its way to the browser."""

    reason = "replaced"
    keeps_cookie = True


class CrowdedCookie(UnreadableError):
    """More cookies of our name than are tried, and none of the tried ones opens."""

    reason = "crowded"
    keeps_cookie = True


class AmbiguousSession(UnreadableError):
    """Two authentic sessions under one cookie name: neither is believed."""

    reason = "ambiguous"
    keeps_cookie = True


class UncheckedSession(UnreadableError):
    """The store that knows about revocations did not answer."""

    reason = "store-down"
    keeps_cookie = True


# FOLD sealedstate.sso.errors
# What can be wrong with login records, registries and made identifiers, by who must act.
#
# Knows the core's groups of errors. Does not know records or registries.
#
# Apart from `NobodySignedIn` and `RequestOfAnother` all of them are the operator's, and none of
# them
# costs a login: who reads login records may catch `LoginsUnreadable`, report it, and go on without
# the service logins.


class NobodySignedIn(UsageError):
    """Login records belong to a user: the session has no subject."""


class RequestOfAnother(UsageError):
    """A logout request means no service login of the session that it was to end."""


class LoginsUnreadable(UnreadablePart):
    """Bytes that this release does not write: a newer one did, or nobody."""


class RegistryMissing(LoginsUnreadable):
    """Service logins name entries of a registry `version` that is not the one we have.

    This node's file lags behind, or was made anew instead of being appended to.
    """

    def __init__(self, version: int) -> None:
        super().__init__(f"service logins need version {version} of a registry that is not here")
        self.version = version


class IdentifierKeyMissing(LoginsUnreadable):
    """An identifier is to be made again with a key, of id `kid`, that is not in the ring."""

    def __init__(self, kid: bytes) -> None:
        super().__init__(f"service logins need the identifier key {kid.hex()}, which is not here")
        self.kid = kid


class SessionIdChanged(LoginsUnreadable):
    """Derived identifiers were made from the id that the session had before it got a new one."""


class RegistryUnreadable(OperatorError):
    """A registry's file is missing, cut, altered or none, or would lose or change an entry."""


class MetadataUnreadable(OperatorError):
    """A metadata file is no XML, or has a document type declaration, which is refused."""


class RowUnreadable(StorageUnavailable):
    """A stored value that another node or release can read, and this one can't."""

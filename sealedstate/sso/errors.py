"""What can be wrong with login records, registries and made identifiers, by who must act.

Knows the core's groups of errors. Does not know records or registries.

Apart from `NobodySignedIn` and `RequestOfAnother` all of them are the operator's, and none of them
costs a login: who reads login records may catch `LoginsUnreadable`, report it, and go on without
the service logins.
"""

from __future__ import annotations

from ..errors import OperatorError, StorageUnavailable, UnreadablePart, UsageError


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

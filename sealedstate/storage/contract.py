"""The storage contract: what a store owes to sealedstate, and helpers for keeping it.

A store maps (context, key) to a record: a value of bytes, a version and an expiry. It owes the
shape of `Storage`, not a base class; `sealedstate.testing` tests every sentence below. The stores
of this package also have the operations of `ManagedStorage`.

- **Time.** A record is live if and only if now < expires_at. From expires_at on it is absent, and
  every operation treats it like a record that never existed. An expiry of None is permanent. Times
  are whole milliseconds since the epoch, 0 <= expires_at <= 2**53, and are returned exactly as
  they were written. The store's `Clock` says what time it is. A server's own clock may only remove
  expired records later. The clock of one node decides what that node sees, but a node whose clock
  is hours ahead must not remove what others still need: stores that nodes share keep what has
  expired for `REAP_AFTER`.
- **Versions.** The writer proposes the version, 1 <= version < 2**63, and the store accepts it only
  if it is greater than the stored one (see `next_version`). So the version is known before the
  write, it does not return after a delete, and a writer whose reply was lost can read the record
  to find out whether the write happened.
- **Atomicity.** `create`, `update` and `delete` are atomic across threads and processes: of any
  number of concurrent writers of one record, exactly one succeeds. `touch_context` and
  `delete_context` are not atomic over the records of a context.
- **Names.** Contexts, keys and members are text of any characters, case-sensitive, and contexts
  and keys are not empty. The store neither truncates nor normalises them. It refuses names and
  values that are too large, and numbers out of range, with CapacityError before any I/O.
- **Indexes.** An index is a set of members under a (context, key). Each member has an expiry. An
  index and a record of the same context and key are independent of each other.
- **Errors.** Absence is a return value. A version mismatch raises VersionMismatch, an outage
  StorageUnavailable, and a lost reply to a write OutcomeUnknown. A driver's exceptions do not reach
  the caller.
- **Threads and forks.** Threads share one store object. In a forked child the store either works,
  with new connections, or, if it is not `shared`, raises StorageUnavailable. The parent is not
  affected.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import (
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeGuard,
    TypeVar,
    runtime_checkable,
)

from ..errors import CapacityError, show_value

__all__ = [
    "ENTRY_BYTES",
    "FOLLOWED",
    "LAST_VERSION",
    "LATEST",
    "UNCHANGED",
    "Capabilities",
    "Changes",
    "Clock",
    "FollowedStorage",
    "ManagedStorage",
    "Serializer",
    "Storage",
    "Stored",
    "TypedRecord",
    "TypedStorage",
    "Unchanged",
    "check_arguments",
    "millis",
    "next_version",
    "read_if_changed",
    "utf8",
]

T = TypeVar("T")
Clock: TypeAlias = Callable[[], float]
"""Returns seconds since the epoch."""

LATEST = 1 << 53
"""The last expiry: a JSON number and the score of a sorted set are exact up to here."""
LAST_VERSION = (1 << 63) - 1
REAP_AFTER = 23 * 3600 * 1000
# For how many milliseconds the stores of this package keep what has expired. Less than a day.
FOLLOWED = frozenset({"sealedstate.revoked", "sealedstate.watermark"})
"""The contexts whose writes a store with the capability `changes` numbers."""
ENTRY_BYTES = 32
"""What a record or a member adds to `total_bytes`, besides its names and its value."""


class Unchanged(Enum):
    """The type of `UNCHANGED`."""

    UNCHANGED = "unchanged"


UNCHANGED: Literal[Unchanged.UNCHANGED] = Unchanged.UNCHANGED
"""What `read_if_changed` returns to a caller that has the current version."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A snapshot of a live record. `expires_at` in epoch milliseconds, or None: permanent."""

    value: bytes = field(repr=False)
    version: int
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do, as far as it knows its server. Sizes are bytes of UTF-8."""

    context_bytes: int
    """The longest context, at least 255."""
    key_bytes: int
    """The longest key, at least 255."""
    value_bytes: int
    """The largest value, at least 255."""
    shared: bool
    """All processes see the same records."""
    durable: bool
    """An acknowledged write survives kill -9 of the store's process. Whether it survives a power
    failure depends on what the server and its disk have synced; `reasons` names the settings."""
    survives_restart: bool
    """Writes survive an orderly restart of the store."""
    evicts: bool
    """The store may remove live records."""
    enumerable: bool
    """`keys` works."""
    server_side: bool = True
    """The records are not in the visitor's hands."""
    indexes: bool = True
    """`add_member`, `remove_member` and `members` work."""
    contexts: bool = True
    """`touch_context` works, if the store has it."""
    changes: bool = False
    """It is a `FollowedStorage`."""
    resolution: int = 1
    """Milliseconds: a record is absent from expires_at + resolution - 1 on, at the latest."""
    native_expiry: bool = False
    """A server removes expired records some time later, by its own clock; `reap` need not."""
    staleness: int = 0
    """For how many milliseconds a read may return what another process has overwritten."""
    total_bytes: int | None = None
    """How much fits into the store in all, at least 2048; None if there is no such limit. A record
    counts for its context, key and value, a member for its context, key and text, and each for
    ENTRY_BYTES more. The store refuses what does not fit with CapacityError and loses nothing."""
    assumed: bool = False
    """The server has not been asked yet: these are conservative defaults."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """By field name, the server's settings that a field depends on and an operator can change."""
    advice: tuple[str, ...] = ()
    """What an operator should change, one sentence each, without a full stop."""


@runtime_checkable
class Storage(Protocol):
    """A storage service, as sessions, key rings and single logout use it.

    Every operation may raise StorageUnavailable, and every write OutcomeUnknown. An operation that
    the store's capabilities exclude raises StorageError.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this store can do. May ask the server, from time to time."""
        ...

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        """Write a record if none is live; False if one is.

        Any version may follow a record that was deleted or has expired.
        """
        ...

    def read(self, context: str, key: str) -> Stored | None:
        """Return the live record, or None."""
        ...

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        """Overwrite a live record; False if none is live.

        Raises VersionMismatch if `expected` is given and differs from the stored version, or if
        `version` is not greater than the stored one.
        """
        ...

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        """Delete a live record; False if none is live.

        Raises VersionMismatch if `expected` is given and differs from the stored version.
        """
        ...

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        """Return the keys of a context's live records, as a snapshot.

        Needs the capability `enumerable`.
        """
        ...

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        """Add `member` to an index, or change its expiry.

        Also raises CapacityError if the store limits an index as a whole to `value_bytes`. Needs
        the capability `indexes`, like the next two operations.
        """
        ...

    def remove_member(self, context: str, key: str, member: str) -> bool:
        """Remove `member` from an index; False if it was not live there."""
        ...

    def members(self, context: str, key: str) -> dict[str, int | None]:
        """Return the live members of an index, with their expiries."""
        ...

    def ping(self) -> None:
        """Ask the server for an answer. Afterwards `capabilities` are not `assumed` any more."""
        ...

    def reap(self, limit: int) -> int:
        """Remove at most `limit` expired records and members for good; return how many.

        Repeated calls leave no expired records, unless the store has `native_expiry`.
        """
        ...

    def close(self) -> None:
        """Close idle connections. The store can be used again afterwards."""
        ...


@runtime_checkable
class ManagedStorage(Storage, Protocol):
    """A store with operations for administrators and applications; sealedstate needs none of them.

    The conformance kit tests them in a store that has all four.
    """

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        """Change the expiry of a live record, but not its version; False if none is live."""
        ...

    def touch_context(self, context: str, expires_at: int | None) -> None:
        """Change the expiry of every live record of a context. Needs the capability `contexts`.

        Not atomic over records. Afterwards, each record that was live at the start of the call has
        this expiry, unless another caller deleted it or changed its expiry in the meantime. A
        record that was created in the meantime may have it. No expired record becomes live. If the
        call raises, some records have changed; it can be repeated.
        """
        ...

    def delete_context(self, context: str) -> None:
        """Delete every record and every index of a context.

        Not atomic over records. Afterwards, no record that was live at the start of the call is
        ever returned again, whatever other callers did to it in the meantime; a record that was
        created in the meantime may survive. If the call raises, some records are deleted; it can
        be repeated. If the store evicts, `reasons["contexts"]` may say which records it misses.
        """
        ...

    def prepare(self) -> None:
        """Make what the store needs, such as tables. Harmless if done before, or concurrently."""
        ...


class Changes(NamedTuple):
    """One page of what `changes` found.

    `records`: (context, key, record), each as it was at some moment after the call began.
    `position`: what to pass to get the next page, or later what has changed since. `is_last`:
    whether this is all for now. `starts_over`: the first page of all live records, because `after`
    was None or comes from another state of the store, such as one before a restore: records of
    earlier pages count no longer.
    """

    records: Sequence[tuple[str, str, Stored]]
    position: str
    is_last: bool
    starts_over: bool

    def __repr__(self) -> str:
        return f"<Changes: {len(self.records)} records>"


@runtime_checkable
class FollowedStorage(Storage, Protocol):
    """A store that says what changed in the contexts of `FOLLOWED`.

    Needs the capability `changes`.
    """

    def changes(self, after: str | None, limit: int) -> Changes:
        """Return live records that were written since `after`, at most `limit`.

        `after`: the position of an earlier answer, also to another process; None for all. A write
        that was acknowledged before the call that returned the first page is in one of the pages,
        whatever other writers were doing, and however late a write of before was committed. A
        record may be returned again. What was deleted is not reported.
        """
        ...


class Listener(Protocol):
    """A connection over which a store hints that something may have changed."""

    def wait(self, seconds: float) -> bool:
        """Wait for a hint, or for `seconds`; return whether there was one.

        Hints may be lost, and come without a change. Raises StorageUnavailable if the connection
        has broken; then no more hints will come.
        """
        ...

    def close(self) -> None: ...


class HintingStorage(FollowedStorage, Protocol):
    """A store that can hint to all processes that what they follow has changed."""

    def listen(self) -> Listener | None:
        """Open a connection for hints; None if the server has none.

        Raises StorageUnavailable, and another StorageError if none would come.
        """
        ...

    def notify(self) -> None:
        """Hint to all listeners that something has changed."""
        ...


def is_storage(value: object) -> TypeGuard[Storage]:
    """Whether an object has the operations of a store, its own or by `__getattr__`.

    `isinstance` differs here: from Python 3.12 on, it does not see what a proxy passes on.
    """
    return _has_operations(value, Storage)


def is_managed(value: object) -> TypeGuard[ManagedStorage]:
    """Whether an object has the operations of ManagedStorage, too."""
    return _has_operations(value, Storage) and _has_operations(value, ManagedStorage)


def _has_operations(value: object, protocol: type) -> bool:
    if isinstance(value, type):
        return False  # the class instead of an instance
    for name, operation in vars(protocol).items():
        if name.startswith("_"):
            continue
        if isinstance(operation, property):
            # A property may ask the server, so the class is asked first.
            if not (hasattr(type(value), name) or hasattr(value, name)):
                return False
        elif not callable(getattr(value, name, None)):
            return False
    return True


def read_if_changed(
    storage: Storage, context: str, key: str, version: int
) -> Stored | Literal[Unchanged.UNCHANGED] | None:
    """Return the live record, UNCHANGED if its version is `version`, or None if none is live."""
    stored = storage.read(context, key)
    return UNCHANGED if stored is not None and stored.version == version else stored


def next_version(now: float, current: int = 0) -> int:
    """Return the version to propose at `now` (epoch seconds) over the version `current`.

    Microseconds since 2020, but always greater than `current`, so that versions increase even if
    the clock steps back. Of two writers that propose the same version, the store accepts one.
    """
    return max(current + 1, int((now - 1577836800) * 1_000_000))


def reap_time(now: int) -> int:
    """Return until when records must have expired that are removed at `now` (epoch milliseconds).

    A logout is a record, too: if it were removed by a clock that is ahead, its cookie would open
    again on every other node.
    """
    return max(now - REAP_AFTER, 0)


def millis(seconds: float) -> int:
    """Convert epoch seconds to epoch milliseconds."""
    return int(seconds * 1000)


def check_arguments(
    capabilities: Capabilities,
    context: str,
    key: str,
    value: bytes = b"",
    expires_at: int | None = None,
    *versions: int | None,
) -> None:
    """Raise CapacityError for an argument that is too large, empty or out of range.

    An expiry or a version of None is always in range.
    """
    if not context or not key:
        raise CapacityError(f"{'key' if context else 'context'} must not be empty")
    # Each call checks its names, and to encode ASCII is not needed for its length.
    if not context.isascii() or len(context) > capabilities.context_bytes:
        _check_size("context", len(utf8(context)), capabilities.context_bytes)
    if not key.isascii() or len(key) > capabilities.key_bytes:
        _check_size("key", len(utf8(key)), capabilities.key_bytes)
    if len(value) > capabilities.value_bytes:
        _check_size("value", len(value), capabilities.value_bytes)
    if expires_at is not None and not 0 <= expires_at <= LATEST:
        raise CapacityError(
            f"expires_at must be None or 0 to 2**53 milliseconds since the epoch,"
            f" got {show_value(expires_at)}"
        )
    for version in versions:
        if version is not None and not 0 < version <= LAST_VERSION:
            raise CapacityError(f"version must be 1 to 2**63 - 1, got {show_value(version)}")


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise CapacityError(f"{what} must be at most {limit} bytes, got {size}")


def utf8(text: str) -> bytes:
    """Encode a context, key or member. Raises CapacityError if it is not valid Unicode."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise CapacityError("names must be valid Unicode, got a lone surrogate") from None


# --- objects of one type in one context -----------------------------------------------------------


class Serializer(Protocol[T]):
    """Converts objects of one type to bytes and back."""

    def serialize(self, value: T) -> bytes: ...
    def deserialize(self, data: bytes) -> T: ...


class TypedRecord(NamedTuple, Generic[T]):
    """A snapshot of a live object. `expires_at` in epoch milliseconds, or None: permanent."""

    value: T
    version: int
    expires_at: int | None

    def __repr__(self) -> str:
        return f"<TypedRecord, version {self.version}, until {self.expires_at}>"


@dataclass(frozen=True, slots=True)
class TypedStorage(Generic[T]):
    """The objects of `context`. Proposes the versions; values are not sealed."""

    storage: Storage
    context: str
    serializer: Serializer[T]
    clock: Clock

    def create(self, key: str, value: T, expires_at: int | None) -> int | None:
        """Write an object if none is live; return its version, or None if one is."""
        version, data = next_version(self.clock()), self.serializer.serialize(value)
        return (
            version if self.storage.create(self.context, key, data, expires_at, version) else None
        )

    def read(self, key: str) -> TypedRecord[T] | None:
        """Return the live object, or None."""
        stored = self.storage.read(self.context, key)
        if stored is None:
            return None
        value = self.serializer.deserialize(stored.value)
        return TypedRecord(value, stored.version, stored.expires_at)

    def update(self, key: str, value: T, expires_at: int | None, expected: int) -> int | None:
        """Overwrite the version `expected`; return the new version, or None if none is live.

        Raises VersionMismatch if another version is stored.
        """
        version, data = next_version(self.clock(), expected), self.serializer.serialize(value)
        is_done = self.storage.update(self.context, key, data, expires_at, version, expected)
        return version if is_done else None

    def delete(self, key: str, expected: int | None = None) -> bool:
        """Delete an object; False if none is live. Raises VersionMismatch like `update`."""
        return self.storage.delete(self.context, key, expected)


# --- digests of names, for servers that limit their length or their characters --------------------
#
# The digest of a context is the BLAKE2b-256 of its length (8 bytes, big-endian) and the context.
# The digest of a key continues with a byte 1 and the key. The length keeps ("a", "bc") and
# ("ab", "c") apart. The printable form is base64url without padding: without blanks, braces or line
# ends, no key can contain a server's commands or choose its hash slot.

NAME_CHARS = 43


def context_digest(context: str) -> bytes:
    """Return the digest of a context."""
    return _hash_context(context).digest()


def key_digest(context: str, key: str) -> bytes:
    """Return the digest of a key in its context."""
    hashed = _hash_context(context).copy()
    hashed.update(b"\1" + key.encode())
    return hashed.digest()


def printable(digest: bytes) -> bytes:
    """Return a digest as `NAME_CHARS` characters."""
    return base64.urlsafe_b64encode(digest)[:NAME_CHARS]


# Few contexts are in use at a time, and hashing one costs a microsecond. No more are cached,
# because a context may be as long as 64 KiB.
@functools.lru_cache(maxsize=64)
def _hash_context(context: str) -> hashlib.blake2b:
    text = context.encode()
    return hashlib.blake2b(len(text).to_bytes(8, "big") + text, digest_size=32)

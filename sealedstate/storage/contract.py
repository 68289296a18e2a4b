"""The contract of a storage service: (context, key) -> versioned value with an expiry.

Knows names, values and rules. Does not know any backend, what a value means or that it is sealed.
A store owes this shape, not a base class.

Rules that every store keeps:

- A record is live iff now < expires_at; at expires_at it is as absent as one that never was.
  None is permanent. Times are whole milliseconds since the epoch, 0 <= expires_at <= 2**53, and
  come back exactly. What time it is the store's clock tells; a server's own clock may only remove
  later what has expired.
- The writer proposes the version, 1 <= version < 2**63, and the store accepts only one that is
  greater than what it holds (`next_version`), so that a version is known before the write, never
  comes back after a delete, and tells a writer whose reply was lost whether its write happened.
- `create`, `update` and `delete` are atomic across threads and processes: of any number of racers
  on one record, exactly one wins. What a whole context has done to it is not, see `touch_context`
  and `delete_context`.
- Contexts and keys are non-empty text, case-sensitive, any character; nothing is truncated or
  normalised. What is over-large or out of range is refused with CapacityError before any I/O.
- Absence is a value. A mismatch raises VersionMismatch, an outage StorageUnavailable, and a lost
  reply OutcomeUnknown. No exception of a driver gets out.
- An index is a set of members under a (context, key) of its own, each with its own expiry. It
  shares nothing with the record of the same name.
- Many threads use one store object. In the child of a fork it works on, with connections of its
  own, or refuses with StorageUnavailable if it is not shared; and the parent notices nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from ..errors import CapacityError

Clock: TypeAlias = Callable[[], float]
"""Seconds since the epoch."""

LATEST = 1 << 53
"""The last expiry: a JSON number and a sorted set's score are exact up to here."""
LAST_VERSION = (1 << 63) - 1
ENTRY_BYTES = 32
"""What a record or a member counts for in `total_bytes`, besides its names and its value."""


class Unchanged(Enum):
    """The answer of `read_if_changed` to a reader who already has the current version."""

    UNCHANGED = "unchanged"


UNCHANGED: Literal[Unchanged.UNCHANGED] = Unchanged.UNCHANGED


@dataclass(frozen=True, slots=True)
class Stored:
    """A snapshot of one live record. `expires_at` in epoch milliseconds, None for ever."""

    value: bytes = field(repr=False)
    version: int
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can and can't do, as far as it knows of its server; sizes in bytes of UTF-8."""

    context_bytes: int
    """The longest context, at least 255."""
    key_bytes: int
    """The longest key, at least 255."""
    value_bytes: int
    """The largest value, at least 255."""
    shared: bool
    """Every process sees the same."""
    durable: bool
    """An acknowledged write survives kill -9 of the store's process. A power failure is survived by
    what the server and its disk have synced, for which `because` names the settings."""
    survives_restart: bool
    """What was written survives a clean restart of the store."""
    evicts: bool
    """Live records may vanish."""
    enumerable: bool
    """`keys` works."""
    server_side: bool = True
    """The visitor does not hold it."""
    indexes: bool = True
    """`add_member`, `remove_member` and `members` work."""
    contexts: bool = True
    """`touch_context` works. `delete_context` does everywhere."""
    resolution: int = 1
    """How many milliseconds later than asked a record may still be there."""
    expires_itself: bool = False
    """A server removes what has expired, some time later, by its own clock; `reap` need not."""
    staleness: int = 0
    """For how many milliseconds a read may still answer with what another process overwrote."""
    total_bytes: int | None = None
    """As much as surely fits in all, at least 2048; None without a bound of its own. A record
    counts for its context, key and value, a member for its context, key and itself, and each for
    ENTRY_BYTES more. What does not fit any more is refused with CapacityError, and nothing lost."""
    presumed: bool = False
    """Nothing was asked of the server yet: all of this is what is usual, or little."""
    because: Mapping[str, str] = field(default_factory=dict)
    """What a field rests on, by its name, where an operator can change it."""


@runtime_checkable
class Storage(Protocol):
    """A storage service. Every operation may raise StorageUnavailable, and every write
    OutcomeUnknown. One that a capability declines raises StorageError.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this store can do."""
        ...

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        """Write a record where there is none alive; False where there is one.

        Any version may follow one that was deleted or has expired.
        """
        ...

    def read(self, context: str, key: str) -> Stored | None:
        """The live record, or None."""
        ...

    def read_if_changed(
        self, context: str, key: str, version: int
    ) -> Stored | Literal[Unchanged.UNCHANGED] | None:
        """The live record unless its version is `version`; None where there is none."""
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
        """Overwrite a live record; False where there is none.

        Raises VersionMismatch when `expected` is given and another version is stored, or when
        `version` is not greater than the stored one.
        """
        ...

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        """Change when a live record expires, not its version; False where there is none."""
        ...

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        """Delete a live record; False where there is none. Raises VersionMismatch as `update`."""
        ...

    def touch_context(self, context: str, expires_at: int | None) -> None:
        """Change when every live record of a context expires; needs the capability `contexts`.

        Not atomic over records. After it has returned, what lived when it began expires then,
        unless it was deleted or moved by somebody else meanwhile; what was created meanwhile may.
        Nothing is revived. If it raises, some records are touched; it can be done again.
        """
        ...

    def delete_context(self, context: str) -> None:
        """Delete every record and every index of a context.

        Not atomic over records. After it has returned, nothing that lived when it began is ever
        read again, whatever was done to it meanwhile; what was created meanwhile may survive or
        not. If it raises, some records are gone; it can be done again. Where a store evicts,
        `because` may name under `contexts` what it then misses.
        """
        ...

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        """The keys of a context's live records, a snapshot; needs the capability `enumerable`."""
        ...

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        """Put `member` into an index, or change when it expires.

        Raises CapacityError, too, where an index as a whole must fit into `value_bytes`.
        """
        ...

    def remove_member(self, context: str, key: str, member: str) -> bool:
        """Take `member` out of an index; False where it was not alive in it."""
        ...

    def members(self, context: str, key: str) -> dict[str, int | None]:
        """The live members of an index, and when each expires."""
        ...

    def prepare(self) -> None:
        """Make what the store needs, such as tables; harmless when done already or by many."""
        ...

    def ping(self) -> None:
        """Nothing, or StorageUnavailable: for a health check. From then on nothing is presumed."""
        ...

    def reap(self, limit: int) -> int:
        """Remove at most `limit` expired records and members for good; how many there were.

        Again and again, it leaves none, but where the capability `expires_itself` says who does.
        """
        ...

    def close(self) -> None:
        """Let go of connections; the store can be used again."""
        ...


def next_version(now: float, current: int = 0) -> int:
    """The version that a writer proposes at `now` (epoch seconds) over `current`.

    Microseconds since 2020, but always greater than what is there: versions grow even when the
    clock steps back, and two racers that propose the same one still have one winner.
    """
    return max(current + 1, int((now - 1577836800) * 1_000_000))


def millis(seconds: float) -> int:
    """Epoch seconds as epoch milliseconds."""
    return int(seconds * 1000)


def check_size(capabilities: Capabilities, context: str, key: str, value: bytes = b"") -> None:
    """Raise CapacityError for an empty or over-large context, key or value."""
    for what, size, most in (
        ("context", len(utf8(context)), capabilities.context_bytes),
        ("key", len(utf8(key)), capabilities.key_bytes),
    ):
        if not size:
            raise CapacityError(f"an empty {what}")
        if size > most:
            raise CapacityError(f"a {what} of {size} bytes; the store takes {most}")
    if len(value) > capabilities.value_bytes:
        raise CapacityError(
            f"a value of {len(value)} bytes; the store takes {capabilities.value_bytes}"
        )


def check_range(expires_at: int | None, *versions: int | None) -> None:
    """Raise CapacityError for a time or a version that no store can be asked to keep.

    Versions are those proposed and those expected; None is passed over.
    """
    if expires_at is not None and not 0 <= expires_at <= LATEST:
        raise CapacityError(
            "an expiry is 0 to 2**53 milliseconds since the epoch, or None for ever"
        )
    for version in versions:
        if version is not None and not 0 < version <= LAST_VERSION:
            raise CapacityError("a version is greater than 0 and less than 2**63")


def utf8(text: str) -> bytes:
    """The bytes of a context, key or member. Raises CapacityError for what has none."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise CapacityError("text with a lone surrogate names nothing in a store") from None

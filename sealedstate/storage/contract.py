"""The contract of a storage service: (context, key) -> versioned value with an expiry.

Knows names, values and rules. Does not know any backend, what a value means or that it is sealed.
A store owes this shape, not a base class.

Rules that every store keeps:

- A record is live iff now < expires_at; at expires_at it is as absent as one that never was.
  None is permanent. Times are whole milliseconds since the epoch, and come back exactly.
- The writer proposes the version and the store accepts only one that is greater than what it holds
  (`next_version`), so that a version is known before the write, never comes back after a delete,
  and tells a writer whose reply was lost whether its write happened.
- `create`, `update` and `delete` are atomic across threads and processes: of any number of racers
  on one record, exactly one wins.
- Contexts and keys are non-empty text, case-sensitive, any character; nothing is truncated or
  normalised. Over-large ones are refused with CapacityError before any I/O.
- Absence is a value. A mismatch raises VersionMismatch, an outage StorageUnavailable, and a lost
  reply OutcomeUnknown.
- An index is a set of members under a (context, key) of its own, each with its own expiry. It
  shares nothing with the record of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from ..errors import CapacityError

Clock: TypeAlias = Callable[[], float]
"""Seconds since the epoch."""


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
    """What a store can and can't do, as far as it knows of its server; sizes in bytes of UTF-8.

    `server_side`: the visitor does not hold it. `shared`: every process sees the same. `durable`:
    an acknowledged write survives kill -9 of the store. `survives_restart`: so does it a clean
    restart. `evicts`: live records may vanish. `enumerable`: `keys` works; `indexes`: so do
    members; `contexts`: so do `touch_context` and `delete_context`. `resolution`: how many
    milliseconds later than asked a record may still be there. `because`: what a field rests on, by
    its name, where an operator can change it.
    """

    context_bytes: int
    key_bytes: int
    value_bytes: int
    shared: bool
    durable: bool
    survives_restart: bool
    evicts: bool
    enumerable: bool
    server_side: bool = True
    indexes: bool = True
    contexts: bool = True
    resolution: int = 1
    because: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Storage(Protocol):
    """A storage service. Every operation may raise StorageUnavailable."""

    @property
    def capabilities(self) -> Capabilities:
        """What this store can do."""
        ...

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        """Write a record where there is none alive; False where there is one."""
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
        """Change when every live record of a context expires."""
        ...

    def delete_context(self, context: str) -> None:
        """Delete every record and every index of a context."""
        ...

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        """The keys of a context's live records, a snapshot; needs the capability `enumerable`."""
        ...

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        """Put `member` into an index, or change when it expires."""
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
        """Nothing, or StorageUnavailable: for a health check."""
        ...

    def reap(self, limit: int) -> int:
        """Remove at most `limit` expired records and members for good; how many there were."""
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


def utf8(text: str) -> bytes:
    """The bytes of a context, key or member. Raises CapacityError for what has none."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise CapacityError("text with a lone surrogate names nothing in a store") from None

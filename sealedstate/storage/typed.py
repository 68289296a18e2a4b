"""Objects of one type in one context of a store: `TypedStorage`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from .contract import Clock, Storage, next_version

__all__ = ["Serializer", "TypedRecord", "TypedStorage"]

T = TypeVar("T")


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

"""A typed view of one context of a store: objects in, objects out.

Knows a serializer and the storage contract. Does not know what the objects are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from .contract import Clock, Storage, next_version

T = TypeVar("T")


class Serializer(Protocol[T]):
    """Turns objects of one kind into bytes and back."""

    def serialize(self, value: T) -> bytes:
        """The bytes of an object."""
        ...

    def deserialize(self, data: bytes) -> T:
        """The object of `serialize`'s bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """A snapshot of one live object. `expires_at` in epoch milliseconds, None for ever."""

    value: T
    version: int
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class TypedStorage(Generic[T]):
    """The objects of `context`. Proposes the versions, so that callers need not."""

    storage: Storage
    context: str
    serializer: Serializer[T]
    clock: Clock

    def create(self, key: str, value: T, expires_at: int | None) -> int | None:
        """Write an object where there is none alive; its version, or None where there is one."""
        version, data = next_version(self.clock()), self.serializer.serialize(value)
        done = self.storage.create(self.context, key, data, expires_at, version)
        return version if done else None

    def read(self, key: str) -> Found[T] | None:
        """The live object, or None."""
        stored = self.storage.read(self.context, key)
        if stored is None:
            return None
        value = self.serializer.deserialize(stored.value)
        return Found(value, stored.version, stored.expires_at)

    def update(self, key: str, value: T, expires_at: int | None, expected: int) -> int | None:
        """Overwrite the version `expected`; the new one, or None where nothing is alive.

        Raises VersionMismatch when another version is stored.
        """
        version = next_version(self.clock(), expected)
        data = self.serializer.serialize(value)
        done = self.storage.update(self.context, key, data, expires_at, version, expected)
        return version if done else None

    def delete(self, key: str, expected: int | None = None) -> bool:
        """Delete an object; False where there is none. Raises VersionMismatch."""
        return self.storage.delete(self.context, key, expected)

"""The typed view: objects in, objects out, and versions that it proposes."""

from __future__ import annotations

import json

from sealedstate.storage import MemoryStorage, TypedStorage
from sealedstate.testing._suite import mismatch_version


class JSONNumbers:
    def serialize(self, value: list[int]) -> bytes:
        return json.dumps(value).encode()

    def deserialize(self, data: bytes) -> list[int]:
        found: list[int] = json.loads(data)
        return found


class TestTypedStorage:
    def test_objects_are_written_read_and_deleted_by_version(self) -> None:
        def clock() -> float:
            return 1_800_000_000.0

        view = TypedStorage(MemoryStorage(clock), "numbers", JSONNumbers(), clock)
        assert view.read("k") is None
        assert view.update("k", [1], None, 1) is None
        assert view.delete("k") is False
        first = view.create("k", [1, 2], None)
        assert first is not None
        assert view.read("k") == ([1, 2], first, None)
        assert view.create("k", [2], None) is None
        second = view.update("k", [3], None, first)
        assert second is not None
        assert second > first
        assert mismatch_version(view.update, "k", [4], None, first) == second
        assert mismatch_version(view.delete, "k", first) == second
        assert view.delete("k", second) is True

"""A typed view: objects in, objects out, versions taken care of."""

from __future__ import annotations

import json

import pytest

from sealedstate.errors import VersionMismatch
from sealedstate.storage import MemoryStorage, TypedStorage
from sealedstate.storage.typed import Found


class JSONNumbers:
    def serialize(self, value: list[int]) -> bytes:
        return json.dumps(value).encode()

    def deserialize(self, data: bytes) -> list[int]:
        found: list[int] = json.loads(data)
        return found


def clock() -> float:
    return 1_800_000_000.0


@pytest.fixture
def view() -> TypedStorage[list[int]]:
    return TypedStorage(MemoryStorage(clock), "numbers", JSONNumbers(), clock)


def test_an_object_comes_back_as_what_it_was(view: TypedStorage[list[int]]) -> None:
    version = view.create("k", [1, 2], None)
    assert version is not None
    assert view.read("k") == Found([1, 2], version, None)


def test_only_the_first_of_two_creates_wins(view: TypedStorage[list[int]]) -> None:
    assert view.create("k", [1], None) is not None
    assert view.create("k", [2], None) is None


def test_a_checked_update_needs_the_version_that_is_there(view: TypedStorage[list[int]]) -> None:
    first = view.create("k", [1], None) or 0
    second = view.update("k", [2], None, first)
    assert second is not None
    assert second > first
    with pytest.raises(VersionMismatch) as caught:
        view.update("k", [3], None, first)
    assert caught.value.current == second


def test_absence_is_an_answer(view: TypedStorage[list[int]]) -> None:
    assert view.read("k") is None
    assert view.update("k", [1], None, 1) is None
    assert view.delete("k") is False


def test_a_checked_delete_leaves_what_another_wrote(view: TypedStorage[list[int]]) -> None:
    first = view.create("k", [1], None) or 0
    view.update("k", [2], None, first)
    with pytest.raises(VersionMismatch):
        view.delete("k", first)
    assert view.delete("k") is True

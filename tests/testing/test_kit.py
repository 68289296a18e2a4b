"""The conformance kit: stores that need no server pass it, and broken stores do not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealedstate.errors import CapacityError, StorageError
from sealedstate.storage import MemoryStorage, SQLiteStorage, Storage
from sealedstate.storage.contract import Clock, check_arguments, utf8
from sealedstate.testing import StorageContract
from sealedstate.testing._suite import total_size
from tests.support.broken_stores import BROKEN

pytest_plugins = ["pytester"]


class TestMemory(StorageContract):
    def open_store(self, clock: Clock) -> Storage:
        return MemoryStorage(clock)


class TestSQLite(StorageContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "store.db"

    def open_store(self, clock: Clock) -> Storage:
        self.opened = SQLiteStorage(self.path, clock)
        return self.opened

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Put a directory in the place of the file."""
        away = self.path.with_suffix(".away")
        self.opened.close()
        self.path.rename(away)
        self.path.mkdir()
        yield
        self.path.rmdir()
        away.rename(self.path)


class SmallStorage(MemoryStorage):
    """Takes as little as a store may, and has only the eleven operations that it owes."""

    capabilities = replace(
        MemoryStorage.capabilities,
        context_bytes=255,
        key_bytes=255,
        value_bytes=255,
        total_bytes=2048,
    )
    update_expiration = touch_context = delete_context = prepare = None  # type: ignore[assignment]

    def create(self, context: str, key: str, value: bytes, *rest: Any, **named: Any) -> bool:
        self._check_total(context, key, value)
        return super().create(context, key, value, *rest, **named)

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        self._check_total(context, key, utf8(member))
        super().add_member(context, key, member, expires_at)

    def _check_total(self, context: str, key: str, value: bytes) -> None:
        check_arguments(self.capabilities, context, key, value)
        self.reap(1000)
        total = total_size(context, key, value)
        for place, stored in list(self._records.items()):
            total += total_size(*place, stored.value)
        for place, index in list(self._indexes.items()):
            total += sum(total_size(*place, member) for member in list(index))
        if total > 2048:
            raise CapacityError("full")


class TestSmall(StorageContract):
    def open_store(self, clock: Clock) -> Storage:
        return SmallStorage(clock)


class PoorStorage(MemoryStorage):
    """Declines every operation that a store may decline."""

    capabilities = replace(
        MemoryStorage.capabilities, enumerable=False, indexes=False, contexts=False
    )

    def _decline(self, *_: object, **__: object) -> Any:
        raise StorageError("not here")

    keys = add_member = remove_member = members = touch_context = _decline


class TestPoor(StorageContract):
    def open_store(self, clock: Clock) -> Storage:
        return PoorStorage(clock)


FIVE_LINES = """
from sealedstate.storage import MemoryStorage
from sealedstate.testing import StorageContract

class TestMyStore(StorageContract):
    def open_store(self, clock):
        return MemoryStorage(clock)
"""


BROKEN_SUITES = """
import pytest
from sealedstate.testing import StorageContract
from tests.support.broken_stores import BROKEN, open_broken

class Broken(StorageContract):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path):
        self.path = tmp_path / "store.db"

    def open_store(self, clock):
        self.opened = open_broken(self.name, clock, self.path)
        return self.opened

class BrokenWithFaults(Broken):
    def outage(self):
        return self.opened.outage()

    def lost_reply(self):
        return self.opened.lost_reply()

for name, (kind, tests) in BROKEN.items():
    base = BrokenWithFaults if hasattr(kind, "outage") else Broken
    # Collecting all of the kit for each takes longer than running the tests that must fail.
    others = {test: None for test in dir(base) if test.startswith("test_") and test not in tests}
    members = {**others, "name": name, "__module__": __name__}
    globals()[f"Test{name}"] = type(f"Test{name}", (base,), members)
"""


def test_five_lines_run_the_whole_kit(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FIVE_LINES)
    passed, skipped, failed = pytester.inline_run("-W", "error").listoutcomes()
    assert len(passed) > 60
    assert not skipped
    assert not failed


@pytest.mark.slow
def test_every_broken_store_fails_the_test_of_its_rule(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(test_broken=BROKEN_SUITES).name
    tests = [f"{path}::Test{name}::{test}" for name, (_, all) in BROKEN.items() for test in all]
    failed = pytester.inline_run("--tb=native", *tests).listoutcomes()[2]
    noticed = {report.nodeid.partition("[")[0] for report in failed if report.when == "call"}
    assert [test for test in tests if test not in noticed] == []


def test_hooks_of_a_suite_add_the_tests_of_faults() -> None:
    faults = {"test_read_during_an_outage_raises", "test_lost_reply_to_a_read_is_not_absence"}
    assert not faults & set(dir(TestMemory))
    assert faults & set(dir(TestSQLite)) == {"test_read_during_an_outage_raises"}

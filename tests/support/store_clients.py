"""Clients that use a few records at once, and note each question and answer in a side file."""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sealedstate.errors import OutcomeUnknown, StorageUnavailable, VersionMismatch
from sealedstate.storage import Storage
from sealedstate.storage.contract import next_version
from sealedstate.testing._workers import run_in_threads
from tests.support.linearizability import Answer, Held, Kind, Mismatch, Operation

CONTEXT = "histories"
KEYS = ("a", "b")
EPOCH = 50_000_000  # nanoseconds, after which all clients turn to fresh records
KINDS: list[Kind] = ["create", "read", "update", "delete"]
WEIGHTS = [3, 4, 6, 2]
YEAR_2100 = 4_102_444_800_000  # a store has an expiry to carry, and nothing expires
CLIENTS_PER_PROCESS = 2


def use(opener: Callable[[], Storage], name: str, folder: Path) -> None:
    """Run some clients on one store, as threads, until there is a file `stop` in `folder`."""
    store = opener()
    run_in_threads(
        CLIENTS_PER_PROCESS, lambda number, _: Client(store, f"{name}.{number}", folder).run()
    )
    store.close()


class Client:
    """One client. No other client ever has its `name`, also no successor after a crash."""

    def __init__(self, store: Storage, name: str, folder: Path) -> None:
        self._store = store
        self._name = name
        self._stop = folder / "stop"
        self._notes = os.open(folder / f"{name}.notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._random = random.Random(name)
        self._seen: dict[str, int] = {}

    def run(self, operations: int = sys.maxsize) -> None:
        """Run as many operations, or fewer if there is a file `stop`."""
        try:
            for number in range(operations):
                if self._stop.exists():
                    return
                self._ask(number)
        except BaseException as error:
            self._note(number, error=repr(error))
            raise
        finally:
            os.close(self._notes)

    def _ask(self, number: int) -> None:
        """One operation: note the call, make it, note the answer."""
        kind = self._random.choices(KINDS, WEIGHTS)[0]
        key = f"{time.monotonic_ns() // EPOCH}-{self._random.choice(KEYS)}"
        version = next_version(time.time(), self._seen.get(key, 0))
        expected = self._seen.get(key) if self._random.random() < 0.7 else None
        value = f"{self._name}/{number}"
        self._note(number, kind=kind, key=key, version=version, value=value, expected=expected)
        try:
            answer = self._act(kind, key, value, version, expected)
        except StorageUnavailable:
            self._note(number, refused=True)
            time.sleep(0.002)
        except OutcomeUnknown:
            time.sleep(0.002)
        else:
            self._note(number, answer=answer)

    def _act(self, kind: Kind, key: str, value: str, version: int, expected: int | None) -> Answer:
        try:
            if kind == "read":
                return self._read(key)
            done = self._write(kind, key, value.encode(), version, expected)
        except VersionMismatch as error:
            self._seen[key] = error.current
            return Mismatch(error.current)
        if done:
            self._seen[key] = version
        return done

    def _write(
        self, kind: Kind, key: str, value: bytes, version: int, expected: int | None
    ) -> bool:
        if kind == "create":
            return self._store.create(CONTEXT, key, value, YEAR_2100, version)
        if kind == "update":
            return self._store.update(CONTEXT, key, value, YEAR_2100, version, expected)
        return self._store.delete(CONTEXT, key, expected)

    def _read(self, key: str) -> Held | None:
        stored = self._store.read(CONTEXT, key)
        if stored is None:
            return None
        assert stored.expires_at == YEAR_2100
        self._seen[key] = stored.version
        return Held(stored.version, stored.value.decode())

    def _note(self, number: int, **what: Any) -> None:
        line = json.dumps({"number": number, "at": time.monotonic_ns(), **what})
        os.write(self._notes, line.encode() + b"\n")


def histories(folder: Path) -> dict[str, list[Operation]]:
    """The noted operations by record, without those that were refused."""
    found = defaultdict(list)
    for path in sorted(folder.glob("*.notes")):
        for key, operation in _operations(path.read_text().splitlines(keepends=True)):
            found[key].append(operation)
    return dict(found)


def _operations(lines: Iterable[str]) -> Iterable[tuple[str, Operation]]:
    # A client that is killed in the middle leaves half a line.
    notes = [json.loads(line) for line in lines if line.endswith("\n")]
    for _, group in itertools.groupby(notes, key=lambda note: note["number"]):
        call, *answers = group
        assert not any("error" in note for note in (call, *answers)), (call, answers)
        if not any("refused" in note for note in answers):
            yield call["key"], _operation(call, answers[0] if answers else None)


def _operation(call: dict[str, Any], reply: dict[str, Any] | None) -> Operation:
    returned = None if reply is None else reply["at"]
    answer = None if reply is None else _answer(call["kind"], reply["answer"])
    asked = (call["version"], call["value"], call["expected"])
    return Operation(call["kind"], call["at"], returned, answer, *asked)


def _answer(kind: Kind, answer: Any) -> Answer:
    if isinstance(answer, list):
        return Held(*answer) if kind == "read" else Mismatch(*answer)
    return None if answer is None else bool(answer)

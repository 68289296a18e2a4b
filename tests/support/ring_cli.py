"""Rings where an operator keeps them, for the tests of ``sealedstate keys``.

Knows places, their environment, and how a ring of a certain age is put there. Does not know what
a command is to do.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sealedstate import Settings
from sealedstate.cli import main
from sealedstate.deployment import open_keys, open_report_store, open_ring_storage, open_store
from sealedstate.keyring import Key, secret_to_text
from sealedstate.rotation.reports import Report, ReportStore
from sealedstate.rotation.ring import Ring, RingStorage, Schedule
from sealedstate.rotation.source import RotatingKeySource
from sealedstate.rotation.transitions import create_ring
from sealedstate.storage import Storage

KEK = Key.generate(os.urandom).export()
HOUR, DAY = 3600, 86400
# What settings make of their defaults.
DEFAULT = Schedule(DAY, 900, 12 * HOUR + 60, 60)
Told = pytest.CaptureFixture[str]
PLACES = ("file", "wrapped file", "store")


@dataclass
class Desk:
    """One place of a ring, which the environment names."""

    keys: str
    environ: dict[str, str]
    home: RingStorage
    board: ReportStore
    path: Path
    stores: ExitStack

    def ring(self) -> Ring:
        found = self.home.load()
        assert found is not None
        return found

    def put(self, ring: Ring) -> Ring:
        """Put a ring there, whatever is there now."""
        assert self.home.write(ring, self.home.load())
        return ring

    def found(self, age: int = 0, schedule: Schedule = DEFAULT) -> Ring:
        """Put a ring there that was founded so long ago."""
        return self.put(create_ring(schedule, int(time.time()) - age, os.urandom))

    def report(self, ring: Ring, **given: object) -> Report:
        """Hang up what a process tells that uses `ring`, and is well."""
        primary = ring.primary(int(time.time()))
        report = Report(
            node="web1",
            pid=71,
            at=time.time(),
            ring=ring.ring_id,
            sequence=ring.sequence,
            primary=None if primary is None else primary.kid.hex(),
            known=tuple(key.kid.hex() for key in ring.keys),
        )
        report = replace(report, **given)  # type: ignore[arg-type]
        self.board.put(report, report.at + 600)
        return report

    def secrets(self) -> set[str]:
        """What no command may print."""
        ring = self.ring()
        found = {secret_to_text(key.secret) for key in ring.keys}
        assert ring.lookup is not None
        kek = KEK.rpartition(":")[2]
        return found | {key.secret.hex() for key in ring.keys} | {secret_to_text(ring.lookup), kek}

    def node(self, **given: object) -> RotatingKeySource:
        """A process of this configuration, without its thread."""
        settings = Settings.from_env(self.environ, rotate_in_process=False, **given)
        store = open_store(settings)
        _close_later(store, self.stores)
        source = open_keys(settings, store)
        assert isinstance(source, RotatingKeySource)
        return source


@contextmanager
def desk(kind: str, folder: Path, environ: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A place of one of the PLACES, empty, which the process's environment names."""
    path = folder / ("store.db" if kind == "store" else "keys.json")
    named = {"SEALEDSTATE_KEYS": "store:" if kind == "store" else f"file:{path}"}
    if kind == "store":
        named["SEALEDSTATE_STORAGE"] = f"sqlite:{path}"
    if kind != "file":
        named["SEALEDSTATE_KEK"] = KEK
    for name in [name for name in os.environ if name.startswith("SEALEDSTATE_")]:
        environ.delenv(name)
    for name, text in named.items():
        environ.setenv(name, text)
    settings = Settings.from_env(named)
    store = open_store(settings)
    home, board = open_ring_storage(settings, store), open_report_store(settings, store)
    with ExitStack() as stores:
        _close_later(store, stores)
        yield Desk(named["SEALEDSTATE_KEYS"], named, home, board, path, stores)


def _close_later(store: Storage | None, stores: ExitStack) -> None:
    if store is not None:
        stores.callback(store.close)


# --- the command line ---------------------------------------------------------------------------


def keys(*arguments: str) -> int:
    return main(["keys", *arguments])


def as_json(told: Told) -> Any:
    return json.loads(told.readouterr().out)


def wrong_usage(told: Told, *arguments: str) -> str:
    """What is said of arguments that are wrong: one line, and exit code 2."""
    told.readouterr()
    assert keys(*arguments) == 2
    out, err = told.readouterr()
    assert not out
    assert err.count("\n") == 1
    return err


def finding(told: Told, *arguments: str) -> str:
    """What is said where something is wrong with the ring: one line, and exit code 1."""
    told.readouterr()
    assert keys(*arguments) == 1
    out, err = told.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def kids(ring: Ring) -> list[str]:
    return [key.kid.hex() for key in ring.keys]

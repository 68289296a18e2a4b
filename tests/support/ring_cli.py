"""The command line in this process, and rings where an operator keeps them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from sealedstate import Settings
from sealedstate.cli import cli
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
PLACES = ("file", "wrapped file", "store")


# --- the command line ---------------------------------------------------------------------------


class Run(NamedTuple):
    """What one command returned and printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: str, stdin: bytes | None = None) -> Run:
    result = CliRunner().invoke(cli, arguments, input=stdin, prog_name="sealedstate")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Run(result.exit_code, result.stdout, result.stderr)


def output(*arguments: str) -> str:
    """What a successful command prints."""
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    return out


def keys_json(*arguments: str, code: int = 0) -> Any:
    """What ``keys ... --json`` prints."""
    result = run("keys", *arguments, "--json")
    assert result.code == code
    return result.json


def usage_error(*arguments: str) -> str:
    """The one line about wrong usage or configuration."""
    return _one_line(2, *arguments)


def finding(*arguments: str) -> str:
    """The one line about something that cannot be used."""
    return _one_line(1, *arguments)


def _one_line(code: int, *arguments: str) -> str:
    result = run(*arguments)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith("sealedstate: ")
    assert result.err.count("\n") == 1
    return result.err


# --- places of a ring ---------------------------------------------------------------------------


@dataclass
class Desk:
    """One place of a ring, which the environment names."""

    keys: str
    environ: dict[str, str]
    storage: RingStorage
    reports: ReportStore
    path: Path
    stores: ExitStack

    def ring(self) -> Ring:
        found = self.storage.load()
        assert found is not None
        return found

    def kids(self) -> list[str]:
        return [key.kid.hex() for key in self.ring().keys]

    def put(self, ring: Ring) -> Ring:
        """Put a ring there, whatever is there now."""
        assert self.storage.write(ring, self.storage.load())
        return ring

    def create(self, age: int = 0, schedule: Schedule = DEFAULT) -> Ring:
        """Put a ring there that was created `age` seconds ago."""
        return self.put(create_ring(schedule, int(time.time()) - age, os.urandom))

    def report(self, ring: Ring, **given: object) -> Report:
        """Leave the report of a process that uses `ring` and is well."""
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
        self.reports.put(report, report.at + 600)
        return report

    def secrets(self) -> set[str]:
        """What no command may print."""
        ring = self.ring()
        assert ring.lookup is not None
        secrets = [key.secret for key in (*ring.keys, *ring.long_term)] + [ring.lookup]
        texts = {form for secret in secrets for form in (secret.hex(), secret_to_text(secret))}
        return texts | {KEK.rpartition(":")[2]}

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
    """One of the PLACES, empty, which the process's environment names."""
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
    storage, reports = open_ring_storage(settings, store), open_report_store(settings, store)
    with ExitStack() as stores:
        _close_later(store, stores)
        yield Desk(named["SEALEDSTATE_KEYS"], named, storage, reports, path, stores)


def _close_later(store: Storage | None, stores: ExitStack) -> None:
    if store is not None:
        stores.callback(store.close)

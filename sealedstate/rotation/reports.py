"""What each process tells about the ring it uses, so that one command can see all of them.

Knows reports, and two places for them: files beside a ring file, and rows of a store. Does not know
who writes or reads them. A report holds kids and numbers: no secret, no session. Whoever stops
writing reports is forgotten.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from .._stored.table import Kind, Put, SealedTable, StoreAccess
from ..errors import OperatorError

CONTEXT = "sealedstate.nodes"
MAX_BYTES = 1 << 16
INDEX = "reports"
# Epoch seconds. What is not less, such as infinity or no number, is no time.
LATEST = 1e15


@dataclass(frozen=True, slots=True)
class Report:
    """One process, as it saw the ring at `at` (epoch seconds, by its own clock).

    `known`: the kids of its ring; `opened`, `unknown`, `refused`: how many cookies came under each
    kid since it started.
    """

    node: str
    pid: int
    at: float
    ring: str
    sequence: int
    primary: str | None
    known: tuple[str, ...]
    opened: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    complaint: str | None = None

    def dump(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str | bytes) -> Report:
        """Raises ValueError for what is none."""
        try:
            shown = json.loads(text)
            report = cls(**{**shown, "known": tuple(shown["known"])})
        except (KeyError, TypeError, RecursionError):
            raise ValueError("no report") from None
        if not _is_sound(report):
            raise ValueError("no report")
        return report


class ReportStore(Protocol):
    """Where reports hang. Both methods may raise OperatorError."""

    def put(self, report: Report, expires_at: float) -> None:
        """Hang up a report in the place of the process's last one, until `expires_at`."""
        ...

    def all(self, now: float) -> list[Report]:
        """The reports that have not expired."""
        ...


class FileReports:
    """Reports as files of a directory."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()  # even if the process moves to another directory

    def put(self, report: Report, expires_at: float) -> None:
        name = f"{_name(report)}.json"
        try:
            self._path.mkdir(mode=0o700, exist_ok=True)
            fresh = self._path / f".{name}.{os.getpid()}"
            fresh.write_text(f"{expires_at}\n{report.dump()}\n", "utf-8")
            fresh.replace(self._path / name)
        except OSError as error:
            raise OperatorError(f"a report can't be written: {error.strerror}") from error

    def all(self, now: float) -> list[Report]:
        return sorted(self._read(now), key=lambda report: (report.node, report.pid))

    def _read(self, now: float) -> Iterator[Report]:
        for file in self._path.glob("*.json"):
            # A file may go meanwhile, and what is no report is somebody else's.
            with contextlib.suppress(OSError, ValueError):
                expires_at, line = file.read_text("utf-8")[:MAX_BYTES].split("\n", 1)
                if float(expires_at) > now:
                    yield Report.parse(line)
                else:
                    file.unlink()


class StoredReports:
    """Reports as rows of a store, sealed by the key that wraps the ring.

    They are not sealed by a key of the ring, because a node with another ring is what they are to
    show. `access` has the key-encryption keys as its keyring.
    """

    def __init__(self, access: StoreAccess) -> None:
        self._table = SealedTable(access, Kind(CONTEXT, "node", "a report"))

    def put(self, report: Report, expires_at: float) -> None:
        key, until = self._table.key(_name(report)), int(expires_at * 1000)
        wanted = Put(report.dump().encode()[:MAX_BYTES], until)
        self._table.change(key, lambda _: wanted, replaces_unreadable=True)
        self._table.add_member(self._table.key(INDEX), key, until)

    def all(self, now: float) -> list[Report]:
        found = []
        for key in self._table.members(self._table.key(INDEX)):
            entry = self._table.look(key)
            # A row that was written without the key-encryption key is ignored.
            if entry is not None and entry.error is None:
                with contextlib.suppress(ValueError):
                    found.append(Report.parse(entry.value))
        return sorted(found, key=lambda report: (report.node, report.pid))


def _is_sound(report: Report) -> bool:
    """Whether each field is of its kind: others can write where reports are read."""
    numbers, counts = (report.pid, report.sequence), (report.opened, report.unknown, report.refused)
    texts = [report.node, report.ring, *report.known]
    texts += [text for text in (report.primary, report.complaint) if text is not None]
    return (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int for number in numbers)
        and type(report.at) in (int, float)
        and abs(report.at) < LATEST
        and all(_counts(count) for count in counts)
    )


def _counts(by_kid: object) -> bool:
    return isinstance(by_kid, dict) and all(
        isinstance(kid, str) and type(count) is int for kid, count in by_kid.items()
    )


def _name(report: Report) -> str:
    message = f"{report.node} {report.pid}".encode()
    return hashlib.blake2b(message, digest_size=12).hexdigest()

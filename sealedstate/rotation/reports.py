"""What each process reports about the ring it uses, for `sealedstate keys`.

A report contains kids and numbers, and neither a secret nor a session. The reports of a process
that has ended expire.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from .._stored.table import Kind, Put, SealedTable, StoreAccess
from ..errors import OperatorError

__all__ = ["FileReports", "Report", "ReportStore", "StoredReports"]

CONTEXT = "sealedstate.nodes"
MAX_BYTES = 1 << 16
INDEX = "reports"
# Epoch seconds. Anything that is not less, such as infinity or NaN, is not a time.
LATEST = 1e15


@dataclass(frozen=True, slots=True)
class Report:
    """One process and its view of the ring.

    `at`: epoch seconds, by the clock of the process. `known`: the kids of its ring. `opened`,
    `unknown`, `refused`: how many cookies came with each kid since the process started.
    `complaint`: what is wrong with the stored ring.
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
        """The report that `dump` wrote. Raises ValueError for any other text."""
        try:
            fields = json.loads(text)
            report = cls(**{**fields, "known": tuple(fields["known"])})
        except (KeyError, TypeError, RecursionError):
            raise ValueError("not a report") from None
        # Others may be able to write where reports are read.
        counts = (report.opened, report.unknown, report.refused)
        texts = [report.node, report.ring, *report.known]
        texts += [text for text in (report.primary, report.complaint) if text is not None]
        if not (
            all(isinstance(text, str) for text in texts)
            and all(type(number) is int for number in (report.pid, report.sequence))
            and type(report.at) in (int, float)
            and abs(report.at) < LATEST
            and all(isinstance(by_kid, dict) for by_kid in counts)
            and all(isinstance(kid, str) for by_kid in counts for kid in by_kid)
            and all(type(count) is int for by_kid in counts for count in by_kid.values())
        ):
            raise ValueError("not a report")
        return report


class ReportStore(Protocol):
    """Where processes leave their reports. Both methods may raise OperatorError."""

    def put(self, report: Report, expires_at: float) -> None:
        """Replace the report of this process, until `expires_at` (epoch seconds)."""
        ...

    def all(self, now: float) -> list[Report]:
        """The reports that have not expired."""
        ...


class FileReports:
    """Reports as files of a directory."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()  # the process may change its directory

    def put(self, report: Report, expires_at: float) -> None:
        name = _name(report) + ".json"
        try:
            self._path.mkdir(mode=0o700, exist_ok=True)
            temporary = self._path / f".{name}.{os.getpid()}"
            temporary.write_text(f"{expires_at}\n{report.dump()}\n", "utf-8")
            temporary.replace(self._path / name)
        except OSError as error:
            raise OperatorError(f"the report could not be written: {error.strerror}") from error

    def all(self, now: float) -> list[Report]:
        reports = []
        for file in self._path.glob("*.json"):
            # The file may be gone by now, or may not be a report.
            with contextlib.suppress(OSError, ValueError):
                expires_at, line = file.read_text("utf-8")[:MAX_BYTES].split("\n", 1)
                if float(expires_at) > now:
                    reports.append(Report.parse(line))
                else:
                    file.unlink()
        return sorted(reports, key=lambda report: (report.node, report.pid))


class StoredReports:
    """Reports as rows of a store, sealed by the key that wraps the ring.

    They are not sealed by a key of the ring, because they are to show nodes with another ring.
    `access` has the key-encryption keys as its keyring.
    """

    def __init__(self, access: StoreAccess) -> None:
        self._table = SealedTable(access, Kind(CONTEXT, "node", "a report"))

    def put(self, report: Report, expires_at: float) -> None:
        key, until = self._table.key(_name(report)), int(expires_at * 1000)
        wanted = Put(report.dump().encode()[:MAX_BYTES], until)
        self._table.change(key, lambda _: wanted, replaces_unreadable=True)
        self._table.add_member(self._table.key(INDEX), key, until)

    def all(self, now: float) -> list[Report]:
        reports = []
        for key in self._table.members(self._table.key(INDEX)):
            entry = self._table.look(key)
            # A row that was written without the key-encryption key is ignored.
            if entry is not None and entry.error is None:
                with contextlib.suppress(ValueError):
                    reports.append(Report.parse(entry.value))
        return sorted(reports, key=lambda report: (report.node, report.pid))


def _name(report: Report) -> str:
    message = f"{report.node} {report.pid}".encode()
    return hashlib.blake2b(message, digest_size=12).hexdigest()

"""What all benchmarks look like: a bar while they run, tables, and what they ran on.

Knows terminals. Does not know what is measured.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self, TextIO

Rows = Mapping[str, Mapping[str, object]]
"""Cells by row and column."""


class Progress:
    """A bar on stderr, which is a terminal or gets nothing."""

    WIDTH = 30

    def __init__(self, title: str, steps: int, stream: TextIO = sys.stderr) -> None:
        self._title, self._steps, self._stream = title, max(1, steps), stream
        self._done, self._begun = 0, monotonic()
        self._shown = stream.isatty()

    def __enter__(self) -> Self:
        self._draw("")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def step(self, what: str = "") -> None:
        """One step is done; `what` is next."""
        self._done += 1
        self._draw(what)

    def _draw(self, what: str) -> None:
        if not self._shown:
            return
        share = min(1.0, self._done / self._steps)
        bar = "#" * int(share * self.WIDTH)
        left = f"{monotonic() - self._begun:4.0f} s"
        text = f"{self._title} [{bar:<{self.WIDTH}}] {share:4.0%} {left}  {what}"
        self._stream.write("\r\x1b[K" + text[: _columns() - 1])
        self._stream.flush()


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return 80


def options_for(description: str) -> ArgumentParser:
    """The options that every benchmark has."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--only", action="append", metavar="ROW", help="a part of a row's name")
    parser.add_argument("--json", action="store_true", help="print numbers for a program")
    parser.add_argument(
        "--save", type=writable, metavar="FILE", help="write these into a file, too"
    )
    return parser


def tell(options: Namespace, told: Mapping[str, object], print_it: Callable[[], None]) -> None:
    """As the options want it; what is told to a program says also on which machine it was."""
    told = {**told, "machine": machine()}
    text = json.dumps(told, indent=2, ensure_ascii=False)
    if options.save is not None:
        options.save.write_text(text + "\n", encoding="utf-8")
    try:
        if options.json:
            print(text)
        else:
            print_it()
            print(f"\n{listed(machine())}")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has read enough; what is left must not be written at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def writable(text: str) -> Path:
    """A file that can be written, its folder made; found out before anything is measured."""
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise ArgumentTypeError(f"{text} can't be written: {error.strerror}") from None
    return path


def readable(text: str) -> Path:
    """A file that can be read."""
    path = Path(text)
    try:
        path.open("rb").close()
    except OSError as error:
        raise ArgumentTypeError(f"{text} can't be read: {error.strerror}") from None
    return path


def print_table(
    title: str, rows: Rows, *, places: int = 2, width: int = 11, turned: bool = False
) -> None:
    """A table with a title, a line for each row; a None is a dash. `turned`: rows are columns."""
    if turned:
        names = list(dict.fromkeys(name for cells in rows.values() for name in cells))
        rows = {name: {row: cells.get(name) for row, cells in rows.items()} for name in names}
    if not rows:
        return
    columns = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    left = max(map(len, rows)) + 1
    wide = [max(width, len(name) + 2) for name in columns]
    print(f"\n{title}\n")
    print(" " * left + "".join(f"{name:>{size}}" for name, size in zip(columns, wide, strict=True)))
    for row, cells in rows.items():
        shown = (
            f"{_cell(cells.get(name), places):>{size}}"
            for name, size in zip(columns, wide, strict=True)
        )
        print(f"{row:<{left}}" + "".join(shown))


def _cell(value: object, places: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{places}f}" if isinstance(value, float) else str(value)


def print_notes(title: str, notes: Mapping[str, str]) -> None:
    """One line for each thing that is said."""
    if notes:
        print(f"\n{title}")
        for name, note in notes.items():
            print(f"  {name}: {note}")


def verdict(value: float, limit: float) -> str:
    """Whether a goal is met that is a largest value."""
    return "met" if value <= limit else "NOT MET"


def machine() -> dict[str, str]:
    """What a figure depends on that is not in the code."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "processor": f"{os.cpu_count()} x {_processor()}",
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def versions(names: Iterable[str]) -> dict[str, str]:
    """Of the distributions that are installed."""
    from sealedstate import __version__

    found = {"sealedstate": __version__}
    for name in dict.fromkeys(names):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def listed(pairs: Mapping[str, str]) -> str:
    """`name value, name value`."""
    return ", ".join(f"{name} {value}" for name, value in pairs.items())


def positive(text: str) -> int:
    """For argparse."""
    number = int(text)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


def chosen(names: Sequence[str], only: Sequence[str] | None, always: str) -> list[str]:
    """The rows that `--only` asks for, by any part of their names; `always` comes along."""
    if not only:
        return list(names)
    parts = [part.lower() for part in only]
    for part in parts:
        if not any(part in name.lower() for name in names):
            raise SystemExit(f"--only {part}: there are {', '.join(names)}")
    return [name for name in names if name == always or any(part in name.lower() for part in parts)]


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()

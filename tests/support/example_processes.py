"""The examples as processes, started as the README says, and stopped by Ctrl-C."""

from __future__ import annotations

import contextlib
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_SECONDS = 120
PATIENCE = 60  # seconds to stop


@dataclass(frozen=True)
class Example:
    """A running example, and the directory that it keeps its state in."""

    process: subprocess.Popen[str]
    var: Path

    def read_lines(self, count: int) -> list[str]:
        """The next lines that it prints."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(START_SECONDS), "the example prints nothing"
        return [self.process.stdout.readline() for _ in range(count)]


@contextlib.contextmanager
def run_example(name: str, directory: Path, *options: str) -> Iterator[Example]:
    """`examples/NAME` on free ports. It must stop cleanly on Ctrl-C, and log no traceback."""
    var, log = directory / "var", directory / "stderr.txt"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            _command(name, var, *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            yield Example(process, var)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                output, _ = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()  # does nothing to a process that has ended
                print(log.read_text(), file=sys.stderr)
    assert (process.returncode, output.split()) == (0, ["Stopped."])
    assert "Traceback" not in log.read_text()


def fail_to_start(name: str, var: Path, *options: str) -> str:
    """What `examples/NAME` writes to stderr when it cannot start."""
    process = subprocess.run(
        _command(name, var, *options), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (process.returncode, process.stdout) == (1, "")
    return process.stderr


def _command(name: str, var: Path, *options: str) -> list[str]:
    command = [sys.executable, str(ROOT / "examples" / name), "--var", str(var), *options]
    return command if "--port" in options else [*command, "--port", "0"]

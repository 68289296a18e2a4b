"""Real servers for tests: started on a free port of 127.0.0.1, stopped by their process ids.

Knows gunicorn's command line. Does not know what the application does, but that it answers GET /.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.client import Client

PATIENCE = 60  # seconds; a server that takes longer to start or to stop is broken

_CONFIGURATION = """
from pathlib import Path

WORKERS = Path(__file__).with_name("workers")


def post_fork(server, worker):
    (WORKERS / str(worker.pid)).touch()


def child_exit(server, worker):
    (WORKERS / str(worker.pid)).unlink(missing_ok=True)
"""


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    workers: Path

    def worker_pids(self) -> list[int]:
        """The workers that have started and were not reaped."""
        return [int(path.name) for path in self.workers.iterdir()]


@contextlib.contextmanager
def gunicorn(
    directory: Path,
    source: str,
    *options: str,
    environ: Mapping[str, str] | None = None,
    workers: int = 4,
) -> Iterator[Server]:
    """gunicorn around `application` of the module `source`, with so many workers.

    What it wrote to stderr is shown when the test fails.
    """
    (directory / "served.py").write_text(source)
    (directory / "gunicorn.conf.py").write_text(_CONFIGURATION)
    (directory / "workers").mkdir()
    log = directory / "stderr.txt"
    with _listening() as listener, log.open("wb") as stderr:
        command = [
            *(sys.executable, "-m", "gunicorn", "--workers", str(workers)),
            *("--config", str(directory / "gunicorn.conf.py"), "--chdir", str(directory)),
            *("--bind", f"fd://{listener.fileno()}", "--no-control-socket", "--backlog", "512"),
            *("--graceful-timeout", "5"),
            *(*options, "served:application"),
        ]
        process = subprocess.Popen(
            command,
            env={**_without_settings(os.environ), **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            pass_fds=[listener.fileno()],
        )
        server = Server(listener.getsockname()[1], directory / "workers")
    try:
        _wait_until_it_answers(server, process, workers)
        yield server
    except BaseException:
        print(log.read_text(errors="replace"), file=sys.stderr)
        raise
    finally:
        _stop(server, process)


def _without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """What a test of this process has set for itself is not for the server."""
    return {name: text for name, text in environ.items() if not name.startswith("SEALEDSTATE_")}


@contextlib.contextmanager
def _listening() -> Iterator[socket.socket]:
    # The server gets the socket itself: between binding and serving nobody can take the port.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener


def _wait_until_it_answers(server: Server, process: subprocess.Popen[bytes], workers: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server has ended by itself"
        with contextlib.suppress(OSError):
            if Client(server.port).get("/").status and len(server.worker_pids()) == workers:
                return
        time.sleep(0.02)
    raise AssertionError("the server does not answer")


def _stop(server: Server, process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        # Without their parent, workers end by themselves only when they are idle.
        for pid in server.worker_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

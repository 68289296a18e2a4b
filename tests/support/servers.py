"""gunicorn on a free port of 127.0.0.1, stopped by its process id."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.client import Client
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess

_CONFIGURATION = """
from pathlib import Path

WORKERS = Path(__file__).with_name("workers")


def post_fork(server, worker):
    (WORKERS / str(worker.pid)).touch()


def child_exit(server, worker):
    (WORKERS / str(worker.pid)).unlink(missing_ok=True)
"""


class Server(ServerProcess):
    """gunicorn in a directory, around `application` of its module `served`."""

    name = "gunicorn"

    def __init__(
        self, directory: Path, options: Sequence[str], environ: Mapping[str, str], workers: int
    ) -> None:
        super().__init__(free_port(), directory)
        # What a test of this process has set for itself is not for the server.
        kept = {name: os.environ[name] for name in os.environ if "SEALEDSTATE_" not in name}
        self.environ = kept | dict(environ)
        self._options, self._workers = options, workers

    def command(self) -> Sequence[str]:
        return [
            *(sys.executable, "-m", "gunicorn", "--workers", str(self._workers)),
            *("--config", str(self.directory / "gunicorn.conf.py")),
            *("--chdir", str(self.directory), "--bind", f"127.0.0.1:{self.port}"),
            *("--no-control-socket", "--backlog", "512", "--graceful-timeout", "5"),
            *(*self._options, "served:application"),
        ]

    def is_ready(self) -> bool:
        """Whether it answers GET /, whatever the application does, with all of its workers."""
        return bool(Client(self.port).get("/").status) and len(self.worker_pids()) == self._workers

    def worker_pids(self) -> list[int]:
        """The workers that have started and were not reaped."""
        return [int(path.name) for path in (self.directory / "workers").iterdir()]


@contextlib.contextmanager
def gunicorn(
    directory: Path,
    source: str,
    *options: str,
    environ: Mapping[str, str] | None = None,
    workers: int = 4,
) -> Iterator[Server]:
    """gunicorn around `application` of the module `source`, with as many workers."""
    (directory / "served.py").write_text(source)
    (directory / "gunicorn.conf.py").write_text(_CONFIGURATION)
    (directory / "workers").mkdir()
    server = Server(directory, options, environ or {}, workers)
    try:
        with server.shown_log():
            server.start()
            yield server
            server.stop()
    finally:
        server.kill9()

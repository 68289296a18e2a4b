"""Web servers on a free port of 127.0.0.1, each stopped by its process id."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.client import Client, send
from tests.support.installed import leave_out, need_driver
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess, until

ServerT = TypeVar("ServerT", bound=ServerProcess)

_BIND = ("--bind", "127.0.0.1:{port}")
_HOST = ("--host", "127.0.0.1", "--port", "{port}")
# uvicorn keeps its former workers if a new one is not ready in time, which is 5 seconds.
_PATIENT = ("--timeout-worker-healthcheck", "60")
_GUNICORN = (*("gunicorn", *_BIND, "--no-control-socket", "--graceful-timeout", "5"),)
# A worker that must stop while it starts does not notice, and would be waited for without end.
_GRANIAN = ("granian", *_HOST, "--workers-kill-timeout", "5")
# Its default buffer takes no request whose header is longer than 4096 bytes.
_UWSGI = (
    *("uwsgi", "--http-socket", "127.0.0.1:{port}", "--need-app", "--master", "--die-on-term"),
    *("--buffer-size", "32768"),
)
# The name of the server, and of its kind of worker; its command line without the application.
WSGI_SERVERS: Mapping[str, Sequence[str]] = {
    "gunicorn": _GUNICORN,
    "gunicorn threads": (*_GUNICORN, "--threads", "4"),
    "gunicorn gevent": (*_GUNICORN, "--worker-class", "gevent"),
    "uwsgi": (*_UWSGI, "--wsgi"),
    "uwsgi threads": (*_UWSGI, "--threads", "4", "--wsgi"),
    "waitress": ("waitress", "--listen", "127.0.0.1:{port}"),
    "granian wsgi": (*_GRANIAN, "--interface", "wsgi"),
    "wsgiref": (),
    "werkzeug": (),
}
ASGI_SERVERS: Mapping[str, Sequence[str]] = {
    "uvicorn": ("uvicorn", *_HOST, *_PATIENT, "--loop", "asyncio", "--http", "h11"),
    "uvicorn uvloop": ("uvicorn", *_HOST, *_PATIENT, "--loop", "uvloop", "--http", "httptools"),
    "hypercorn": ("hypercorn", *_BIND),
    "hypercorn trio": ("hypercorn", *_BIND, "--worker-class", "trio"),
    "granian": (*_GRANIAN, "--interface", "asgi"),
    "daphne": ("daphne", "-b", "127.0.0.1", "-p", "{port}"),
}
# Those that have no command line.
_BY_PYTHON = {
    "wsgiref": "from wsgiref.simple_server import make_server;"
    "make_server('127.0.0.1', {port}, application).serve_forever()",
    "aiohttp": "from aiohttp import web;"
    "web.run_app(application, host='127.0.0.1', port={port}, max_field_size=32768)",
    "werkzeug": "from werkzeug.serving import run_simple;"
    "run_simple('127.0.0.1', {port}, application)",
}
_SERVERS = {**WSGI_SERVERS, **ASGI_SERVERS}

_CONFIGURATION = """
from pathlib import Path

WORKERS = Path(__file__).with_name("workers")


def post_fork(server, worker):
    (WORKERS / str(worker.pid)).touch()


def child_exit(server, worker):
    (WORKERS / str(worker.pid)).unlink(missing_ok=True)
"""


class WebServer(ServerProcess):
    """A server of this kind in a directory. `application`: its module and the name in that."""

    def __init__(
        self,
        kind: str,
        directory: Path,
        options: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        application: str = "served:application",
    ) -> None:
        super().__init__(free_port(), directory)
        self.name = kind  # type: ignore[misc]
        # What a test of this process has set for itself is not for the server.
        kept = {name: os.environ[name] for name in os.environ if "SEALEDSTATE_" not in name}
        kept["PYTHONPATH"] = ":".join([str(directory), *filter(None, sys.path)])
        self.environ = kept | dict(environ or {})
        self._options, self._application = options, application

    def command(self) -> Sequence[str]:
        port = str(self.port)
        if self.name in _BY_PYTHON:
            module, _, name = self._application.partition(":")
            script = f"from {module} import {name} as application;" + _BY_PYTHON[self.name]
            return [sys.executable, "-c", script.replace("{port}", port)]
        server, *arguments = (part.replace("{port}", port) for part in _SERVERS[self.name])
        if server != "uwsgi":
            return [sys.executable, "-m", server, *arguments, *self._options, self._application]
        return [_find_uwsgi() or "", *self._options, *arguments, self._application]

    def is_ready(self) -> bool:
        """Whether it answers GET /, whatever the application does."""
        return bool(send(self.port, "GET", "/").status)

    def replace_workers(self) -> None:
        """Have it replace its workers, and wait until the former ones have ended.

        uWSGI executes itself again to do so. A second signal ends it until it has come so far that
        it catches signals.
        """
        former = set(self._children())
        os.kill(self.pid, signal.SIGHUP)
        until(
            lambda: former.isdisjoint(self._children()) and self._catches(signal.SIGHUP),
            "the former workers have ended",
        )

    def _children(self) -> list[int]:
        """Its children without the one that multiprocessing starts for itself, which stays."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [pid for pid in map(int, children) if "resource_tracker" not in _command_of(pid)]

    def _catches(self, number: signal.Signals) -> bool:
        status = Path(f"/proc/{self.pid}/status").read_text()
        caught = int(re.findall(r"^SigCgt:\t(\w+)$", status, re.MULTILINE)[0], 16)
        return bool(caught >> (number - 1) & 1)


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended
        return ""


class Server(WebServer):
    """gunicorn with as many workers, which are noted."""

    def __init__(
        self, directory: Path, options: Sequence[str], environ: Mapping[str, str], workers: int
    ) -> None:
        options = (
            *("--workers", str(workers), "--config", str(directory / "gunicorn.conf.py")),
            *("--chdir", str(directory), "--backlog", "512", *options),
        )
        super().__init__("gunicorn", directory, options, environ)
        self._workers = workers

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
    (directory / "gunicorn.conf.py").write_text(_CONFIGURATION)
    (directory / "workers").mkdir()
    with running(Server(directory, options, environ or {}, workers), source) as server:
        yield server


def takes_workers(name: str) -> bool:
    """Whether this kind of server has the option --workers."""
    return name.partition(" ")[0] in ("gunicorn", "uwsgi", "granian", "uvicorn", "hypercorn")


def need_server(name: str) -> None:
    """Skip the test, or fail it, if this kind of server is not installed."""
    module, _, worker = name.partition(" ")
    if module == "uwsgi":
        if _find_uwsgi() is None and shutil.which("cc") is None:
            pytest.skip("uWSGI cannot be installed: there is no C compiler")
        if _find_uwsgi() is None:
            leave_out("uwsgi")
    elif module not in _BY_PYTHON:
        need_driver(module, *({"gevent", "trio", "uvloop"} & {worker}))


def _find_uwsgi() -> str | None:
    """uWSGI of the environment that runs the tests: it has its interpreter inside."""
    return shutil.which("uwsgi", path=str(Path(sys.executable).parent))


@contextlib.contextmanager
def running(server: ServerT, source: str) -> Iterator[ServerT]:
    """The server while it runs, around the module `source`; skips if it is not installed."""
    need_server(server.name)
    (server.directory / "served.py").write_text(source)
    try:
        with server.shown_log():
            server.start()
            yield server
            server.stop()
    finally:
        server.kill9()

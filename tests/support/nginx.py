"""nginx of this machine, without anything of the system's configuration."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support.client import send
from tests.support.installed import program
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess

_CONFIGURATION = """
daemon off;
pid {directory}/pid;
error_log {directory}/log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
{http}
}}
"""


def nginx_text(directory: Path, http: str) -> str:
    """The configuration of an nginx whose files are in a directory. `http`: of that block."""
    return _CONFIGURATION.format(directory=directory, http=http)


def nginx_command(binary: str, directory: Path, configuration: Path) -> list[str]:
    root = ["-g", "user root;"] if os.geteuid() == 0 else []
    return [binary, "-p", str(directory), "-c", str(configuration), *root]


class Nginx(ServerProcess):
    """nginx. `http`: that block, for a port. `path`: a page that answers once nginx is ready."""

    name = "nginx"

    def __init__(self, directory: Path, http: Callable[[int], str], path: str = "/ready") -> None:
        super().__init__(free_port(), directory)
        self._binary, self._path = program("nginx"), path
        self._configuration = directory / "nginx.conf"
        self._configuration.write_text(nginx_text(directory, http(self.port)))

    def command(self) -> Sequence[str]:
        return nginx_command(self._binary, self.directory, self._configuration)

    def is_ready(self) -> bool:
        return bool(send(self.port, "GET", self._path).status)


@contextlib.contextmanager
def started(front: Nginx) -> Iterator[Nginx]:
    """nginx while it runs."""
    try:
        with front.shown_log():
            front.start()
            yield front
            front.stop()
    finally:
        front.kill9()

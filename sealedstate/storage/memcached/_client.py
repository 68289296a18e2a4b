"""A client of one memcached server that reports whether a failed write may have happened.

pymemcache provides the connections. Its pool is not used: it returns connections that the server
has closed, and keeps the connection of a cancelled call open for ever. A reply to a read names its
key and is not trusted if it names another key.

`timeout` bounds each wait for a connection or a reply. A handshake waits for up to two replies.
"""

from __future__ import annotations

import select
import socket
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from ...errors import CapacityError, ConfigurationError
from .._network import KEEPALIVE, Broken, Connections, ServerClient

try:
    from pymemcache import exceptions  # type: ignore[import-untyped]
    from pymemcache.client.base import (  # type: ignore[import-untyped]
        Client,
        KeepaliveOpts,
        PooledClient,
    )
except ImportError as missing:
    raise ConfigurationError(
        "storage: memcached needs pymemcache: pip install sealedstate[memcached]"
    ) from missing

T = TypeVar("T")
ServerSettings: TypeAlias = Mapping[bytes, Any]

_URL_FORM = "storage: expected memcached://host[:port], or memcached+unix:///path of a socket"
_SEVERAL = (
    "storage: memcached takes one server, got several; send contexts to different servers,"
    ' {"*": "memcached://a", "sealedstate.part": "memcached://b"}, or name a proxy of all'
)

# What pymemcache raises if it does not get the answer to its request. KeyError: the reply names a
# key that was not requested.
_BREAKAGES = (OSError, KeyError, ValueError, exceptions.MemcacheError)
_REFUSALS = (exceptions.MemcacheServerError, exceptions.MemcacheClientError)


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is: a host and a port, or the path of a socket; and how to connect to it.

    Times in seconds. `prefix`: of every name.
    """

    place: tuple[str, int] | str
    connect_timeout: float
    timeout: float
    prefix: bytes = field(default=b"", repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return self.place if isinstance(self.place, str) else f"{self.place[0]}:{self.place[1]}"


class _Connections(Connections):
    """Connections to `server`.

    `settings`: what it reported when a connection was last opened; empty if it reports none, None
    before.
    """

    def __init__(self, server: Server, client: MemcachedClient) -> None:
        super().__init__()
        self._server, self._client = server, client
        self.settings: ServerSettings | None = None

    def open(self, deadline: float) -> Any:
        """Open a connection and read the server's settings over it."""
        why = "it has no address"
        for place in self._places():
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._client.unavailable("no connection in time")
            client: Any = Client(
                place,
                connect_timeout=min(left, self._server.connect_timeout),
                timeout=self._server.timeout,
                no_delay=True,
                default_noreply=False,
                **self._server.options,
            )
            try:
                self.settings = self._handshake(client)
                client.is_readable = _watch(client.sock)
                return client
            except BaseException as error:
                client.close()
                if not isinstance(error, _BREAKAGES):
                    raise
                why = f"no connection ({type(error).__name__})"
        raise self._client.unavailable(why)

    def _places(self) -> list[tuple[str, int] | str]:
        place = self._server.place
        # A certificate names the host and not its addresses.
        if isinstance(place, str) or "tls_context" in self._server.options:
            return [place]
        try:
            # pymemcache tries only the first address of a name, such as "localhost".
            found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise self._client.unavailable(f"no address ({type(error).__name__})") from None
        return [(str(address[0]), place[1]) for *_, address in found]

    def _handshake(self, client: Any) -> ServerSettings:
        try:
            settings: ServerSettings = client.stats("settings")
        except exceptions.MemcacheUnknownCommandError:
            # A proxy in front of the server need not know the command.
            client.version()
            return {}
        if settings.get(b"cas_enabled") == b"no":
            raise self._client.unavailable("it was started with -C, so writes can't be checked")
        return settings

    def _is_quiet(self, connection: Any) -> bool:
        return connection.sock is not None and not connection.is_readable()

    def drop(self, connection: Any) -> None:
        connection.close()


class MemcachedClient(ServerClient):
    """A client of the server at a URL, or of the server of a pymemcache client.

    Raises ConfigurationError if it is not one memcached server's.
    """

    def __init__(self, source: object, timeout: float) -> None:
        self.server = parse_url(source, timeout) if isinstance(source, str) else _lend(source)
        super().__init__("memcached", self.server.name, self.server.timeout)
        self._connections = _Connections(self.server, self)

    @property
    def settings(self) -> ServerSettings | None:
        """What the server reported when a connection was last opened; None before."""
        return self._connections.settings

    @property
    def timeout(self) -> float:
        return self._timeout

    def close(self) -> None:
        """Close idle connections."""
        self._connections.close_idle()

    def read(self, act: Callable[[Any], T]) -> T:
        """Return the result of `act`, which may be called twice. Raises StorageUnavailable."""
        return self._request(act, True, None)

    def write(self, act: Callable[[Any], T], version: int | None) -> T:
        """Return the result of `act`, which is called once.

        Raises StorageUnavailable or OutcomeUnknown(version).
        """
        return self._request(act, False, version)

    def _request(self, act: Callable[[Any], T], is_read: bool, version: int | None) -> T:
        def exchange(client: Any) -> T:
            try:
                return act(client)
            except exceptions.MemcacheUnexpectedCloseError as error:
                raise Broken from error
            except _REFUSALS:
                raise
            except _BREAKAGES as error:
                raise Broken(timed_out=isinstance(error, TimeoutError)) from error

        try:
            deadline = time.monotonic() + self.server.connect_timeout
            return self._call(self._connections, deadline, exchange, is_read, version)
        except _REFUSALS as error:
            if "too large" in str(error):
                raise CapacityError(
                    f"memcached store {self.address}: value must be at most item_size_max"
                ) from None
            if "out of memory" in str(error):
                raise self.unavailable("its memory is full") from None
            why = f"it answered with an error ({type(error).__name__})"
            # A proxy may report a server error although its server has written.
            wrote_nothing = is_read or isinstance(error, exceptions.MemcacheClientError)
            raise self._failure(why, wrote_nothing, version) from None


def get_many(client: Any, names: Sequence[bytes]) -> dict[bytes, tuple[bytes, bytes]]:
    """Return the values under these names, with the tokens that `cas` needs.

    pymemcache's `gets_many` takes a fifth of a round trip longer: it checks every name again, and
    splits the reply line by line.
    """
    client.sock.sendall(b"gets %b\r\n" % b" ".join(names))
    found: dict[bytes, tuple[bytes, bytes]] = {}
    reply, at = b"", 0
    while True:
        while (end := reply.find(b"\r\n", at)) < 0:
            reply += _receive(client)
        line = reply[at:end]
        if line == b"END" and end + 2 == len(reply):
            return found
        client._raise_errors(line, b"gets")
        kind, name, _, size, token = line.split()
        if kind != b"VALUE" or name not in names or not size.isdigit():
            raise ValueError("not a reply to this request")
        begin, at = end + 2, end + 4 + int(size)
        while len(reply) < at:
            reply += _receive(client)
        if reply[at - 2 : at] != b"\r\n":
            raise ValueError("a value that is longer than its size")
        found[name] = reply[begin : at - 2], token


def _receive(client: Any) -> bytes:
    piece: bytes = client.sock.recv(1 << 16)
    if not piece:
        raise exceptions.MemcacheUnexpectedCloseError
    return piece


def _watch(sock: socket.socket) -> Callable[[], object]:
    """Return a function that returns whether something has arrived, without waiting."""
    if not hasattr(select, "poll"):  # on Windows, and where eventlet has replaced it
        return lambda: select.select([sock], [], [], 0)[0]
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return lambda: poll.poll(0)


# --- where a server is --------------------------------------------------------------------------


def parse_url(url: str, timeout: float) -> Server:
    """Return the server of a URL. Raises ConfigurationError, which does not quote it."""
    try:
        parts = urllib.parse.urlsplit(url)
        if "," in parts.netloc:
            raise ConfigurationError(_SEVERAL)
        host, port = parts.hostname, parts.port or 11211
    except ValueError as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(_URL_FORM) from None
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("storage: memcached takes no user and no password")
    path = urllib.parse.unquote(parts.path)
    if parts.scheme == "memcached+unix" and path and not (host or parts.query or parts.fragment):
        return Server(path, timeout, timeout)
    extra = path.strip("/") or parts.query or parts.fragment
    if parts.scheme != "memcached" or not host or extra:
        raise ConfigurationError(_URL_FORM)
    keepalive: dict[str, Any] = {}
    if hasattr(socket, "TCP_KEEPIDLE"):  # as pymemcache needs it
        keepalive["socket_keepalive"] = KeepaliveOpts(*KEEPALIVE)
    return Server((host, port), timeout, timeout, options=keepalive)


def _lend(client: Any) -> Server:
    """Return the server of a pymemcache client. Its pool, if it has one, is not used."""
    if not isinstance(client, (Client, PooledClient)):
        raise ConfigurationError(
            "client: must be a pymemcache Client or PooledClient, got"
            f" {type(client).__name__}; memcached takes one server"
        )
    if not client.timeout or not client.connect_timeout:
        raise ConfigurationError(
            "client: must have a timeout and a connect_timeout; without them, a server that does"
            " not answer blocks every request"
        )
    options = {
        name: getattr(client, name)
        for name in ("socket_module", "socket_keepalive", "tls_context")
        if getattr(client, name) is not None
    }
    return Server(client.server, client.connect_timeout, client.timeout, client.key_prefix, options)

"""A client of one memcached server that reports whether a failed write may have happened.

pymemcache provides the connections. Its pool is not used: it returns connections that the server
has closed, and after a cancelled call a connection whose reply is still to come. A reply to a read
names its key and is not trusted if it names another key.

`timeout` bounds each wait for a connection or a reply. A handshake waits for up to two replies.
"""

from __future__ import annotations

import select
import socket
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from ...errors import CapacityError, ConfigurationError
from .._network import Broken, ServerClient

try:
    from pymemcache import exceptions  # type: ignore[import-untyped]
    from pymemcache.client.base import Client  # type: ignore[import-untyped]
except ImportError as missing:
    raise ConfigurationError(
        "storage: memcached needs pymemcache: pip install sealedstate[memcached]"
    ) from missing

T = TypeVar("T")
ServerSettings: TypeAlias = Mapping[bytes, Any]

_URL_FORM = "storage: expected memcached://host[:port]"


# What pymemcache raises if it does not get the answer to its request. KeyError: the reply names a
# key that was not requested.
_BREAKAGES = (OSError, KeyError, ValueError, exceptions.MemcacheError)
_REFUSALS = (exceptions.MemcacheServerError, exceptions.MemcacheClientError)


class MemcachedClient(ServerClient):
    """Connections to the server at `url`.

    `settings`: what the server reported when a connection was last opened; empty if it reports
    none, None before. Raises ConfigurationError if the URL is not a memcached server's.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._host, self._port = parse_address(url)
        super().__init__("memcached", f"{self._host}:{self._port}", timeout)
        self.settings: ServerSettings | None = None

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
            return self._call(exchange, is_read, version)
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

    def _open(self) -> Any:
        """Open a connection and read the server's settings over it."""
        try:
            # pymemcache tries only the first address of a name, such as "localhost".
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise self.unavailable(f"no address ({type(error).__name__})") from None
        why = "it has no address"
        for *_, address in found:
            client: Any = Client(
                (str(address[0]), self._port),
                connect_timeout=self._timeout,
                timeout=self._timeout,
                no_delay=True,
                default_noreply=False,
            )
            try:
                self.settings = self._handshake(client)
                client.poll = select.poll()
                client.poll.register(client.sock, select.POLLIN)
                return client
            except BaseException as error:
                client.close()
                if not isinstance(error, _BREAKAGES):
                    raise
                why = f"no connection ({type(error).__name__})"
        raise self.unavailable(why)

    def _handshake(self, client: Any) -> ServerSettings:
        try:
            settings: ServerSettings = client.stats("settings")
        except exceptions.MemcacheUnknownCommandError:
            # A proxy in front of the server need not know the command.
            client.version()
            return {}
        if settings.get(b"cas_enabled") == b"no":
            raise self.unavailable("it was started with -C, so writes can't be checked")
        return settings

    def _is_quiet(self, connection: Any) -> bool:
        return connection.sock is not None and not connection.poll.poll(0)

    def _close(self, connection: Any) -> None:
        connection.close()


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


def parse_address(url: str) -> tuple[str, int]:
    """Return host and port of a server's URL. Raises ConfigurationError."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port or 11211
    except ValueError:
        raise ConfigurationError(_URL_FORM) from None
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("storage: memcached takes no user and no password")
    extra = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme != "memcached" or not host or extra:
        raise ConfigurationError(_URL_FORM)
    return host, port

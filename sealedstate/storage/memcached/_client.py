"""A client of one memcached server that reports whether a failed write may have happened.

pymemcache provides the connections. Its pool is not used: it returns connections that the server
has closed, and after a cancelled call a connection whose reply is still to come. Here a connection
is closed after any error, and is not used if it has received anything unasked. A reply to a read
names its key and is not trusted if it names another key.

`timeout` bounds each wait for a connection or a reply. A handshake waits for up to two replies.
"""

from __future__ import annotations

import select
import socket
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from ..._forks import ConnectionStack
from ...errors import (
    CapacityError,
    ConfigurationError,
    OutcomeUnknown,
    StorageError,
    StorageUnavailable,
)

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


class _Broken(Exception):
    """No answer, or not the answer to this request."""

    def __init__(self, timed_out: bool) -> None:
        super().__init__()
        self.timed_out = timed_out


# What pymemcache raises if it does not get the answer to its request. KeyError: the reply names a
# key that was not requested.
_BREAKAGES = (OSError, KeyError, ValueError, exceptions.MemcacheError)
_FAILURES = (_Broken, exceptions.MemcacheServerError, exceptions.MemcacheClientError)


class MemcachedClient:
    """Connections to the server at `url`, each used by one thread at a time and by one process.

    `settings`: what the server reported when a connection was last opened; empty if it reports
    none, None before. Raises ConfigurationError if the URL is not a memcached server's.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._host, self._port = parse_address(url)
        self._timeout = timeout
        self._idle: ConnectionStack[Any] = ConnectionStack(_is_quiet, lambda client: client.close())
        self.settings: ServerSettings | None = None

    @property
    def address(self) -> str:
        """Host and port, for messages."""
        return f"{self._host}:{self._port}"

    def read(self, act: Callable[[Any], T]) -> T:
        """Return the result of `act`, which may be called twice. Raises StorageUnavailable."""
        try:
            try:
                return self._call(self._idle.take() or self._open(), act)
            except _Broken as broken:
                if broken.timed_out:  # no time is left to try again
                    raise
            return self._call(self._open(), act)
        except _FAILURES as error:
            raise self._as_storage_error(error, is_read=True) from None

    def write(self, act: Callable[[Any], T], version: int | None) -> T:
        """Return the result of `act`, which is called once.

        Raises StorageUnavailable or OutcomeUnknown(version).
        """
        try:
            return self._call(self._idle.take() or self._open(), act)
        except _FAILURES as error:
            raise self._as_storage_error(error, is_read=False, version=version) from None

    def close(self) -> None:
        """Close idle connections."""
        self._idle.close()

    def unavailable(self, why: str) -> StorageUnavailable:
        """Make an error that names the server."""
        return StorageUnavailable(f"memcached store {self.address}: {why}")

    def _call(self, client: Any, act: Callable[[Any], T]) -> T:
        try:
            result = act(client)
        except exceptions.MemcacheUnexpectedCloseError as error:
            raise _Broken(timed_out=False) from error
        except (exceptions.MemcacheServerError, exceptions.MemcacheClientError):
            client.close()
            raise
        except _BREAKAGES as error:
            client.close()
            raise _Broken(timed_out=isinstance(error, TimeoutError)) from error
        except BaseException:
            # After a cancelled call, too: its reply must not answer the next request.
            client.close()
            raise
        self._idle.put(client)
        return result

    def _as_storage_error(
        self, error: Exception, is_read: bool, version: int | None = None
    ) -> StorageError:
        wrote_nothing = is_read
        if isinstance(error, _Broken):
            why = "the connection broke"
            if error.timed_out:
                why = f"no answer within {self._timeout} s"
        elif "too large" in str(error):
            return CapacityError(
                f"memcached store {self.address}: value must be at most item_size_max"
            )
        elif "out of memory" in str(error):
            return self.unavailable("its memory is full")
        else:
            why = f"it answered with an error ({type(error).__name__})"
            # A proxy may report a server error although its server has written.
            wrote_nothing = is_read or isinstance(error, exceptions.MemcacheClientError)
        if wrote_nothing:
            return self.unavailable(why)
        return OutcomeUnknown(
            f"memcached store {self.address}: {why}; it may or may not have written", version
        )

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
            except _BREAKAGES as error:
                client.close()
                why = f"no connection ({type(error).__name__})"
            except BaseException:
                client.close()
                raise
            else:
                return client
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
        client.close()
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


def _is_quiet(client: Any) -> bool:
    """Whether the connection is open and has received nothing unasked."""
    return client.sock is not None and not client.poll.poll(0)

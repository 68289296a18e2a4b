"""Connections to one memcached server: an act on a connection, or an error that says what may have
been.

Knows pymemcache's client, URLs and lost answers. Does not know records.

pymemcache's pool is not used: it hands out connections that the server has closed long ago, and a
cancelled call leaves one behind whose answer is still on its way. Here a connection on which
anything went wrong is closed, and none is used that is not silent. An answer to a read names its
key, and is not believed when it names another.

`timeout` bounds each wait: for a connection, for each of two answers when it is new, for an answer.
"""

from __future__ import annotations

import select
import socket
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from pymemcache import exceptions as refusals  # type: ignore[import-untyped]
from pymemcache.client.base import Client  # type: ignore[import-untyped]

from ...errors import (
    CapacityError,
    ConfigurationError,
    OutcomeUnknown,
    StorageError,
    StorageUnavailable,
)
from .._pool import ConnectionStack

T = TypeVar("T")
Settings: TypeAlias = Mapping[bytes, Any]

_FORM = "storage: a memcached server is given as memcached://host[:port]"


class _Broken(Exception):
    """No answer, or one that can't be ours."""

    def __init__(self, slow: bool) -> None:
        super().__init__()
        self.slow = slow


# What pymemcache raises when it does not get the answer to its question. KeyError: one that names a
# key which nobody asked for.
_MISHAPS = (OSError, KeyError, ValueError, refusals.MemcacheError)
_FAILURES = (_Broken, refusals.MemcacheServerError, refusals.MemcacheClientError)


class Link:
    """Connections to the server at `url`, each used by one thread at a time and by one process.

    `settings`: what the server told when it was connected to last; empty where it does not tell,
    None before. Raises ConfigurationError when the URL names no server.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._host, self._port = _parsed(url)
        self._timeout = timeout
        self._idle: ConnectionStack[Any] = ConnectionStack(_is_quiet, lambda client: client.close())
        self.settings: Settings | None = None

    @property
    def address(self) -> str:
        """Host and port, for messages."""
        return f"{self._host}:{self._port}"

    def read(self, act: Callable[[Any], T]) -> T:
        """Do what may be done twice. Raises StorageUnavailable."""
        try:
            try:
                return self._on(self._idle.take() or self._open(), act)
            except _Broken as broken:
                # After a timeout there is no time left.
                if broken.slow:
                    raise
            return self._on(self._open(), act)
        except _FAILURES as error:
            raise self._storage_error(error, True, None) from None

    def write(self, act: Callable[[Any], T], version: int | None) -> T:
        """Do what must be done once at most. Raises StorageUnavailable, OutcomeUnknown."""
        try:
            return self._on(self._idle.take() or self._open(), act)
        except _FAILURES as error:
            raise self._storage_error(error, False, version) from None

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._idle.close()

    def unavailable(self, why: str) -> StorageUnavailable:
        """An error that names the server."""
        return StorageUnavailable(f"memcached store {self.address}: {why}")

    def _on(self, client: Any, act: Callable[[Any], T]) -> T:
        try:
            done = act(client)
        except refusals.MemcacheUnexpectedCloseError as error:
            raise _Broken(slow=False) from error
        except (refusals.MemcacheServerError, refusals.MemcacheClientError):
            client.close()
            raise
        except _MISHAPS as error:
            client.close()
            raise _Broken(slow=isinstance(error, TimeoutError)) from error
        except BaseException:
            # A cancelled call, too: its answer must not meet the next question.
            client.close()
            raise
        self._idle.put(client)
        return done

    def _storage_error(self, error: Exception, reads: bool, version: int | None) -> StorageError:
        if isinstance(error, _Broken):
            why = f"no answer within {self._timeout} s" if error.slow else "the connection broke"
            return self.unavailable(why) if reads else self._unknown(why, version)
        if "too large" in str(error):
            return CapacityError(f"memcached store {self.address}: too large for its item_size_max")
        if "out of memory" in str(error):
            return self.unavailable("its memory is full")
        why = f"it answered with an error ({type(error).__name__})"
        if reads or isinstance(error, refusals.MemcacheClientError):
            return self.unavailable(why)
        # Such as a proxy's, whose server may have done it nevertheless.
        return self._unknown(why, version)

    def _unknown(self, why: str, version: int | None) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"memcached store {self.address}: {why}; it may or may not have written", version
        )

    def _open(self) -> Any:
        """A new connection, over which the server has told its settings."""
        why = "it has no address"
        for address in self._addresses():
            client: Any = Client(
                address,
                connect_timeout=self._timeout,
                timeout=self._timeout,
                no_delay=True,
                default_noreply=False,
            )
            try:
                self.settings = self._told(client)
                client.poll = select.poll()
                client.poll.register(client.sock, select.POLLIN)
            except _MISHAPS as error:
                client.close()
                why = f"no connection ({type(error).__name__})"
            except BaseException:
                client.close()
                raise
            else:
                return client
        raise self.unavailable(why)

    def _addresses(self) -> Iterator[tuple[str, int]]:
        # The client itself tries only the first address of a name, "localhost" for example.
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise self.unavailable(f"no address ({type(error).__name__})") from None
        return iter([(str(address[0]), self._port) for *_, address in found])

    def _told(self, client: Any) -> Settings:
        """What the server tells of itself; a proxy in front of one may not know the question."""
        try:
            told: Settings = client.stats("settings")
        except refusals.MemcacheUnknownCommandError:
            client.version()
            return {}
        if told.get(b"cas_enabled") == b"no":
            raise self.unavailable("it was started with -C, and no write could be checked")
        return told


def fetched(client: Any, names: Sequence[bytes]) -> dict[bytes, tuple[bytes, bytes]]:
    """What is under these names, and what `cas` knows it by.

    pymemcache's `gets_many` takes a fifth of a round trip longer: it checks every name anew, and
    cuts the answer into lines one by one.
    """
    client.sock.sendall(b"gets %b\r\n" % b" ".join(names))
    found: dict[bytes, tuple[bytes, bytes]] = {}
    answer, at = b"", 0
    while True:
        while (end := answer.find(b"\r\n", at)) < 0:
            answer += _received(client)
        line = answer[at:end]
        if line == b"END" and end + 2 == len(answer):
            return found
        client._raise_errors(line, b"gets")
        kind, name, _, size, token = line.split()
        if kind != b"VALUE" or name not in names or not size.isdigit():
            raise ValueError("an answer to nobody's question")
        begin, at = end + 2, end + 4 + int(size)
        while len(answer) < at:
            answer += _received(client)
        if answer[at - 2 : at] != b"\r\n":
            raise ValueError("an answer that is longer than it says")
        found[name] = answer[begin : at - 2], token


def _received(client: Any) -> bytes:
    piece: bytes = client.sock.recv(1 << 16)
    if not piece:
        client.close()
        raise refusals.MemcacheUnexpectedCloseError
    return piece


def _parsed(url: str) -> tuple[str, int]:
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port or 11211
    except ValueError:
        raise ConfigurationError(_FORM) from None
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("storage: memcached is spoken to without user and password")
    extra = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme != "memcached" or not host or extra:
        raise ConfigurationError(_FORM)
    return host, port


def _is_quiet(client: Any) -> bool:
    """Whether the connection stands and nothing has come in that nobody asked for."""
    if client.sock is None:
        return False
    return not client.poll.poll(0)

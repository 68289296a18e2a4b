"""A client of one Redis server that reports whether a failed write may have happened.

redis-py provides the connections. Its client and pool are not used, because they send a command
again (up to ten times, by default) when its reply was lost. Every request begins with a PING of
fresh random bytes, and a reply that does not follow their echo is not trusted.

`timeout` bounds each wait for a connection or a reply. It also bounds connecting and the handshake
together, so that a call ends within twice the timeout, or within the timeout if there is a
connection.
"""

from __future__ import annotations

import os
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import ConfigurationError, StorageError
from .._network import Broken, ServerClient
from ._scripts import Script

try:
    import redis
    import redis.exceptions
    from redis.backoff import NoBackoff
    from redis.connection import Connection, SSLConnection
    from redis.retry import Retry
except ImportError as missing:
    raise ConfigurationError(
        "storage: Redis needs redis-py: pip install sealedstate[redis]"
    ) from missing

ECHO_BYTES = 8

_SCHEMES = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
_TLS_OPTIONS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
_URL_FORM = (
    "storage: expected redis://[[user]:password@]host[:port][/database], or rediss:// for TLS"
)

# What the first word of a server's error means.
_REFUSALS = {
    "READONLY": "it is a replica and takes no writes (READONLY)",
    "OOM": "its memory is full (OOM; see maxmemory)",
    "MISCONF": "it can't save to its disk and so takes no writes (MISCONF)",
    "NOREPLICAS": "too few replicas follow it (NOREPLICAS; see min-replicas-to-write)",
    "LOADING": "it is still loading its data (LOADING)",
    "MASTERDOWN": "it is a replica that has lost its primary (MASTERDOWN)",
    "BUSY": "another client's script occupies it (BUSY)",
    "NOAUTH": "it wants a password (NOAUTH)",
    "WRONGPASS": "it refused the user or the password (WRONGPASS)",
    "NOPERM": "its user may not run a command or access a key that is needed (NOPERM)",
    "WRONGTYPE": "one of the store's keys holds a value of another type (WRONGTYPE)",
    "MOVED": "it is one node of a cluster and does not have the key (MOVED)",
    "ASK": "it is one node of a cluster and is migrating the key (ASK)",
    "TRYAGAIN": "it is one node of a cluster and is migrating the key (TRYAGAIN)",
    "CLUSTERDOWN": "its cluster is down (CLUSTERDOWN)",
    "CROSSSLOT": "its cluster wants the keys of a script in one slot (CROSSSLOT)",
    "NOSCRIPT": "it keeps no scripts (NOSCRIPT)",
    "MAXCLIENTS": "it has too many clients (see maxclients)",
}
# The only one of them that a script may receive after it has begun to write.
_PARTIAL = "WRONGTYPE"
# redis-py removes the first word from errors for which it has a class.
_CODES: tuple[tuple[type[redis.RedisError], str], ...] = (
    (redis.ReadOnlyError, "READONLY"),
    (redis.OutOfMemoryError, "OOM"),
    (redis.BusyLoadingError, "LOADING"),
    (redis.AuthenticationError, "WRONGPASS"),
    (redis.exceptions.NoScriptError, "NOSCRIPT"),
    (redis.exceptions.NoPermissionError, "NOPERM"),
    (redis.exceptions.MasterDownError, "MASTERDOWN"),
    (redis.exceptions.ClusterDownError, "CLUSTERDOWN"),
    (redis.exceptions.ClusterCrossSlotError, "CROSSSLOT"),
    (redis.exceptions.TryAgainError, "TRYAGAIN"),
    (redis.exceptions.MovedError, "MOVED"),
    (redis.exceptions.AskError, "ASK"),
)
# Redis 6 reports inside a script's error why it refused the script's first write.
_INNER_CODE = re.compile(r" -?(READONLY|OOM|MISCONF|NOREPLICAS|WRONGTYPE) ")


# --- where a server is --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Server:
    """The address of a server and how to log in to it."""

    host: str
    port: int
    database: int
    user: str = field(repr=False)
    password: str = field(repr=False)
    tls: bool
    options: Mapping[str, Any] = field(repr=False)


def parse_server(url: str) -> Server:
    """Parse a server's URL. Raises ConfigurationError, which does not quote it."""
    try:
        parts = urllib.parse.urlsplit(url)
        tls, port = _SCHEMES[parts.scheme], parts.port or 6379
        database = int(parts.path.removeprefix("/") or "0")
    except (ValueError, KeyError):
        raise ConfigurationError(_URL_FORM) from None
    if not parts.hostname or database < 0 or parts.fragment:
        raise ConfigurationError(_URL_FORM)
    user, password = (urllib.parse.unquote(word or "") for word in (parts.username, parts.password))
    if user and not password:
        raise ConfigurationError("storage: the Redis URL has a user but no password")
    options = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - (_TLS_OPTIONS if tls else set()))
    if unknown:
        raise ConfigurationError(
            f"storage: the Redis URL has an unknown option {unknown[0]!r}; it takes"
            f" {', '.join(sorted(_TLS_OPTIONS))}, and only with rediss://"
        )
    return Server(parts.hostname, port, database, user, password, tls, options)


# --- the client ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An error in place of an answer. `code`: the first word of the server's message."""

    code: str


class RedisClient(ServerClient):
    """Connections to the server at `url`. `connects` counts how many there have been."""

    def __init__(self, url: str, timeout: float) -> None:
        self._server = server = parse_server(url)
        super().__init__("redis", f"{server.host}:{server.port}", timeout)
        self.connects = 0

    def read(self, *words: bytes, accept: Callable[[Any], bool] = lambda answer: True) -> Any:
        """Return the answer to a command that reads.

        Raises StorageUnavailable, also for an answer that `accept` rejects.
        """
        (answer,) = self._request([words], is_read=True, accept=accept)
        if isinstance(answer, _Refusal):
            raise self._as_storage_error(answer, is_read=True)
        return answer

    def read_many(self, *commands: Sequence[bytes]) -> list[Any]:
        """Return the answers to commands that read, and None for those that were refused."""
        answers = self._request(commands, is_read=True)
        return [None if isinstance(answer, _Refusal) else answer for answer in answers]

    def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        *arguments: bytes,
        is_read: bool = False,
        version: int | None = None,
    ) -> Any:
        """Return the answer of a script. It receives an echo, then the arguments.

        Raises StorageUnavailable, and unless it only reads, OutcomeUnknown(version).
        """
        echo = os.urandom(ECHO_BYTES)
        rest = (b"%d" % len(keys), *keys, echo, *arguments)

        def accept(answer: Any) -> bool:
            first = answer[0] if isinstance(answer, list) else answer
            return isinstance(first, bytes) and first.startswith(echo)

        answer: Any = None
        for words in ((b"EVALSHA", script.sha, *rest), (b"EVAL", script.text, *rest)):
            (answer,) = self._request([words], is_read, version, accept)
            if not isinstance(answer, _Refusal) or answer.code != "NOSCRIPT":
                break
        if isinstance(answer, _Refusal):
            raise self._as_storage_error(answer, is_read, version)
        return answer[1] if isinstance(answer, list) else answer[ECHO_BYTES:]

    # --- one request, one reply -----------------------------------------------------------------

    def _request(
        self,
        commands: Sequence[Sequence[bytes]],
        is_read: bool,
        version: int | None = None,
        accept: Callable[[Any], bool] = lambda answer: True,
    ) -> list[Any]:
        """Return the answers to commands, or _Refusals among them."""
        echo = os.urandom(ECHO_BYTES)
        # The echo's PING comes first: if the request is cut off, the command is incomplete.
        request = b"".join([pack(words) for words in ((b"PING", echo), *commands)])

        def exchange(connection: Any) -> list[Any]:
            _send(connection, request)
            first, *answers = [_receive(connection) for _ in range(1 + len(commands))]
            if first != echo or not all(
                isinstance(answer, _Refusal) or accept(answer) for answer in answers
            ):
                raise Broken
            return answers

        return self._call(exchange, is_read, version)

    def _as_storage_error(
        self, refusal: _Refusal, is_read: bool, version: int | None = None
    ) -> StorageError:
        why = _REFUSALS.get(refusal.code, f"it answered with an error ({refusal.code})")
        wrote_nothing = refusal.code in _REFUSALS and refusal.code != _PARTIAL
        return self._failure(why, is_read or wrote_nothing, version)

    # --- connections ----------------------------------------------------------------------------

    def _open(self) -> Any:
        start = time.monotonic()
        kind: Any = SSLConnection if self._server.tls else Connection
        connection = kind(
            host=self._server.host,
            port=self._server.port,
            socket_timeout=self._timeout,
            socket_connect_timeout=self._timeout,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            redis_connect_func=self._handshake,
            **self._server.options,
        )
        # Reporting the library's name would cost each new connection two more round trips.
        connection.driver_info = connection.lib_name = connection.lib_version = None
        try:
            connection.connect()
        except (redis.RedisError, UnicodeError) as error:
            raise self.unavailable(self._explain(error)) from None
        self.connects += 1
        if time.monotonic() - start > self._timeout:
            connection.disconnect()
            raise self.unavailable(f"no connection within {self._timeout} s")
        return connection

    def _handshake(self, connection: Any) -> None:
        """Log in and ping in one round trip, to find a server that accepts but does not answer."""
        server, echo = self._server, os.urandom(ECHO_BYTES)
        commands: list[Sequence[bytes]] = []
        if server.password:
            login = [server.user, server.password] if server.user else [server.password]
            commands.append((b"AUTH", *(word.encode() for word in login)))
        if server.database:
            commands.append((b"SELECT", b"%d" % server.database))
        commands.append((b"PING", echo))
        connection.on_connect()
        connection.send_packed_command(
            [b"".join(pack(words) for words in commands)], check_health=False
        )
        answers = [connection.read_response(disable_decoding=True) for _ in commands]
        if answers != [*[b"OK"] * (len(answers) - 1), echo]:
            raise redis.InvalidResponse

    def _explain(self, error: Exception) -> str:
        """Say why there is no connection, without repeating a secret."""
        if isinstance(error, redis.TimeoutError):
            return f"no connection within {self._timeout} s"
        if "DB index" in str(error):
            return f"it has no database {self._server.database}"
        if "without any password" in str(error) or "no password is set" in str(error):
            return "it has no password, but the settings have one"
        cause = type(error.__context__ or error).__name__
        return _REFUSALS.get(_code(error), f"no connection ({cause})")

    def _is_quiet(self, connection: Any) -> bool:
        try:
            return not connection.can_read()
        except (redis.RedisError, OSError):
            return False

    def _close(self, connection: Any) -> None:
        # In a forked child this closes the descriptor but not the connection.
        connection.disconnect()


def pack(words: Sequence[bytes]) -> bytes:
    """Encode a command in Redis's protocol."""
    return b"*%d\r\n" % len(words) + b"".join(
        [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    )


def _send(connection: Any, request: bytes) -> None:
    try:
        connection.send_packed_command([request], check_health=False)
    except (redis.RedisError, OSError) as error:
        # The system did not accept the end of the request, and half a command does not run.
        raise Broken(isinstance(error, redis.TimeoutError), sent=False) from error


def _receive(connection: Any) -> Any:
    try:
        return connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:
        return _Refusal(_code(error))
    except (redis.RedisError, OSError, ValueError) as error:
        raise Broken(isinstance(error, redis.TimeoutError)) from error


def _code(error: BaseException) -> str:
    """Return the first word of a server's error."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return "NOAUTH" if "uthentication required" in str(error) else code
    if "max number of clients" in str(error):
        return "MAXCLIENTS"
    inner = _INNER_CODE.search(str(error))
    return inner[1] if inner else str(error).split(" ", 1)[0][:20]

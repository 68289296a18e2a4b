"""Connections to one Redis server: a question, an answer, or an error that says what may have been.

Knows redis-py's connections and lost answers. Does not know records or what a script does.

redis-py's client and pool are not used: they send a command again when its answer was lost (ten
times, by default). Here a connection that did not bring its answer is closed, whatever the reason,
so that none is used while an answer may still be on its way. Every question begins with a PING of
something random and new, and an answer that does not follow upon this is nobody's. A command that
was not sent whole can't have run, and is sent once more on a fresh connection; so is a read whose
connection broke. All else is told: StorageUnavailable where the server surely wrote nothing,
OutcomeUnknown where it may have.

`timeout` bounds each wait: for a connection, for its greeting, for an answer. Connecting and
greeting may not take longer together either, so that a call ends within twice the time, and within
the time itself where a connection stands already.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis
import redis.exceptions
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.retry import Retry

from ...errors import OutcomeUnknown, StorageError, StorageUnavailable
from .._pool import ConnectionStack
from .scripts import Script
from .server import Server

ECHO_BYTES = 8

# Why a server says no, by the first word of its error.
_REFUSALS = {
    "READONLY": "it is a replica and takes no writes (READONLY)",
    "OOM": "its memory is full (OOM; see maxmemory)",
    "MISCONF": "it can't save to its disk and so takes no writes (MISCONF)",
    "NOREPLICAS": "too few replicas follow it (NOREPLICAS; see min-replicas-to-write)",
    "LOADING": "it is still loading its data (LOADING)",
    "MASTERDOWN": "it is a replica that has lost its primary (MASTERDOWN)",
    "BUSY": "somebody else's script occupies it (BUSY)",
    "NOAUTH": "it wants a password (NOAUTH)",
    "WRONGPASS": "it refused the user or the password (WRONGPASS)",
    "NOPERM": "its user may not run a command or reach a key that is needed (NOPERM)",
    "WRONGTYPE": "a key of ours holds something of another kind (WRONGTYPE)",
    "MOVED": "it is one node of a cluster and does not have the key (MOVED)",
    "ASK": "it is one node of a cluster and is giving the key away (ASK)",
    "TRYAGAIN": "it is one node of a cluster and is giving the key away (TRYAGAIN)",
    "CLUSTERDOWN": "its cluster is down (CLUSTERDOWN)",
    "CROSSSLOT": "its cluster wants the keys of a script in one slot (CROSSSLOT)",
    "NOSCRIPT": "it keeps no scripts (NOSCRIPT)",
    "MAXCLIENTS": "it has too many clients (see maxclients)",
}
# All of them come before anything ran but this one, which a script may meet half-way.
_HALF_WAY = "WRONGTYPE"
# redis-py takes the first word off where it has a class for the error.
_CLASSES: tuple[tuple[type[redis.RedisError], str], ...] = (
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
# Redis 6 tells inside an error of the script why it refused the script's first write.
_WITHIN = re.compile(r" -?(READONLY|OOM|MISCONF|NOREPLICAS|WRONGTYPE) ")


@dataclass(frozen=True, slots=True)
class _Refused:
    """What came in the place of an answer. `code`: the first word of the server's error."""

    code: str


class _Broken(Exception):
    """No answer, or none that can be ours. `sent`: the question may have arrived whole."""

    def __init__(self, sent: bool, slow: bool = False) -> None:
        super().__init__()
        self.sent = sent
        self.slow = slow


class Link:
    """Connections to one server, each used by one thread at a time and by one process only.

    `connects` counts how many there have been.
    """

    def __init__(self, server: Server, timeout: float) -> None:
        self._server = server
        self._timeout = timeout
        # In a child, redis-py's disconnect() closes the descriptor and leaves the connection alone.
        self._idle: ConnectionStack[Any] = ConnectionStack(
            _is_quiet, lambda connection: connection.disconnect()
        )
        self.connects = 0

    def ask(self, *words: bytes, ours: Callable[[Any], bool] = lambda answer: True) -> Any:
        """The answer to a command that reads. Raises StorageUnavailable, for one not `ours` too."""
        (answer,) = self._answers([words], reads=True, ours=ours)
        if isinstance(answer, _Refused):
            raise self._storage_error(answer, reads=True)
        return answer

    def ask_all(self, *commands: Sequence[bytes]) -> list[Any]:
        """The answers to commands that read, None where one was refused."""
        answers = self._answers(commands, reads=True)
        return [None if isinstance(answer, _Refused) else answer for answer in answers]

    def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        *more: bytes,
        reads: bool = False,
        version: int | None = None,
    ) -> Any:
        """The answer of a script, which gets an echo and then `more`.

        Raises StorageUnavailable, and OutcomeUnknown(version) unless it only `reads`.
        """
        echo = os.urandom(ECHO_BYTES)
        rest = (b"%d" % len(keys), *keys, echo, *more)

        def ours(answer: Any) -> bool:
            first = answer[0] if isinstance(answer, list) else answer
            return isinstance(first, bytes) and first.startswith(echo)

        answer: Any = None
        for words in ((b"EVALSHA", script.sha, *rest), (b"EVAL", script.text, *rest)):
            (answer,) = self._answers([words], reads, version, ours)
            if not isinstance(answer, _Refused) or answer.code != "NOSCRIPT":
                break
        if isinstance(answer, _Refused):
            raise self._storage_error(answer, reads, version)
        return answer[1] if isinstance(answer, list) else answer[ECHO_BYTES:]

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._idle.close()

    # --- one question, one answer ---------------------------------------------------------------

    def _answers(
        self,
        commands: Sequence[Sequence[bytes]],
        reads: bool,
        version: int | None = None,
        ours: Callable[[Any], bool] = lambda answer: True,
    ) -> list[Any]:
        """The answers to commands, or refusals among them."""
        echo = os.urandom(ECHO_BYTES)
        # The commands come last, for what is cut off must be their end.
        question = b"".join([packed(words) for words in ((b"PING", echo), *commands)])

        def receive(connection: Any) -> list[Any]:
            return _receive_all(connection, len(commands), echo, ours)

        try:
            return self._exchange_again(question, receive, reads)
        except _Broken as broken:
            raise self._storage_error(broken, reads, version) from None

    def _exchange_again(
        self, question: bytes, receive: Callable[[Any], list[Any]], reads: bool
    ) -> list[Any]:
        try:
            return self._exchange(self._idle.take() or self._open(), question, receive)
        except _Broken as broken:
            # After a timeout there is no time left.
            if broken.slow or (broken.sent and not reads):
                raise
        return self._exchange(self._open(), question, receive)

    def _exchange(
        self, connection: Any, question: bytes, receive: Callable[[Any], list[Any]]
    ) -> list[Any]:
        try:
            _send(connection, question)
            answers = receive(connection)
        except BaseException:
            # A cancelled call, too: its answer must not meet the next question.
            connection.disconnect()
            raise
        self._idle.put(connection)
        return answers

    def _storage_error(
        self, found: _Refused | _Broken, reads: bool, version: int | None = None
    ) -> StorageError:
        if isinstance(found, _Refused):
            why = _REFUSALS.get(found.code, f"it answered with an error ({found.code})")
            surely_not = found.code in _REFUSALS and found.code != _HALF_WAY
        else:
            why = f"no answer within {self._timeout} s" if found.slow else "the connection broke"
            surely_not = not found.sent
        if reads or surely_not:
            return self.unavailable(why)
        return OutcomeUnknown(
            f"redis store {self._server.address}: {why}; it may or may not have written", version
        )

    def unavailable(self, why: str) -> StorageUnavailable:
        """An error that names the server."""
        return StorageUnavailable(f"redis store {self._server.address}: {why}")

    # --- connections ----------------------------------------------------------------------------

    def _open(self) -> Any:
        began = time.monotonic()
        connection = self._connection()
        try:
            connection.connect()
        except (redis.RedisError, UnicodeError) as error:
            raise self.unavailable(self._why_closed(error)) from None
        self.connects += 1
        if time.monotonic() - began > self._timeout:
            connection.disconnect()
            raise self.unavailable(f"no connection within {self._timeout} s")
        return connection

    def _connection(self) -> Any:
        kind: Any = SSLConnection if self._server.tls else Connection
        connection = kind(
            host=self._server.host,
            port=self._server.port,
            socket_timeout=self._timeout,
            socket_connect_timeout=self._timeout,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            redis_connect_func=self._greet,
            **self._server.options,
        )
        # Telling the library's name would cost each new connection two more round trips.
        connection.driver_info = connection.lib_name = connection.lib_version = None
        return connection

    def _greet(self, connection: Any) -> None:
        """One round trip that ends in PING: what connects but does not answer is found here."""
        connection.on_connect()
        echo = os.urandom(ECHO_BYTES)
        greeting = [*self._server.greeting(), (b"PING", echo)]
        connection.send_packed_command(
            [b"".join(packed(words) for words in greeting)], check_health=False
        )
        answers = [connection.read_response(disable_decoding=True) for _ in greeting]
        if answers != [*[b"OK"] * (len(answers) - 1), echo]:
            raise redis.InvalidResponse

    def _why_closed(self, error: Exception) -> str:
        if isinstance(error, redis.TimeoutError):
            return f"no connection within {self._timeout} s"
        code = _code(error)
        if "DB index" in str(error):
            return f"it has no database {self._server.database}"
        if "without any password" in str(error) or "no password is set" in str(error):
            return "it has no password, but the settings have one"
        return _REFUSALS.get(code, f"no connection ({_system_error(error)})")


def packed(words: Sequence[bytes]) -> bytes:
    """A command as it travels."""
    return b"*%d\r\n" % len(words) + b"".join(
        [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    )


def _send(connection: Any, question: bytes) -> None:
    try:
        connection.send_packed_command([question], check_health=False)
    except (redis.RedisError, OSError) as error:
        # Its end was not taken over by the system, and half a command does not run.
        raise _Broken(sent=False, slow=isinstance(error, redis.TimeoutError)) from error


def _receive_all(
    connection: Any, count: int, echo: bytes, ours: Callable[[Any], bool]
) -> list[Any]:
    """The echo that makes them ours, and so many answers, or refusals among them."""
    first, *answers = [_receive(connection) for _ in range(1 + count)]
    if first != echo or not all(isinstance(answer, _Refused) or ours(answer) for answer in answers):
        raise _Broken(sent=True)
    return answers


def _receive(connection: Any) -> Any:
    try:
        return connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:
        return _Refused(_code(error))
    except (redis.RedisError, OSError, ValueError) as error:
        raise _Broken(sent=True, slow=isinstance(error, redis.TimeoutError)) from error


def _is_quiet(connection: Any) -> bool:
    """Whether the connection stands and nothing has come in that nobody asked for."""
    try:
        return not connection.can_read()
    except (redis.RedisError, OSError):
        return False


def _code(error: BaseException) -> str:
    for kind, code in _CLASSES:
        if isinstance(error, kind):
            return "NOAUTH" if "uthentication required" in str(error) else code
    if "max number of clients" in str(error):
        return "MAXCLIENTS"
    within = _WITHIN.search(str(error))
    return within[1] if within else str(error).split(" ", 1)[0][:20]


def _system_error(error: Exception) -> str:
    cause = error.__context__
    return type(cause or error).__name__

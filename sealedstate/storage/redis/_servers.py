"""Redis servers: their URLs, what they are, connections to them, and what their errors mean.

redis-py provides the connections, and where an application hands in its client, the pools.

Every new connection asks the server with HELLO, which no user can be forbidden, what it is. A node
of a cluster, a sentinel or a replica behind a URL of one server would take part of the requests, or
none, or answer with old records.
"""

from __future__ import annotations

import os
import re
import socket
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from ...errors import ConfigurationError, StorageError, StorageUnavailable, StorageUnusable
from .._network import KEEPALIVE, Connections
from ..urls import check_file, show_name

try:
    import redis as redis  # for `_client` and `_nodes`, too
    import redis.cluster
    import redis.crc
    import redis.exceptions
    from redis.backoff import NoBackoff
    from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
    from redis.retry import Retry
except ImportError as missing:
    raise ConfigurationError(
        "storage: Redis needs redis-py: pip install sealedstate[redis]"
    ) from missing

ECHO_BYTES = 8

# What the first word of a server's error means.
REFUSALS = {
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
    "SCRIPT": "its user may not run a command or access a key that a script needs (see its ACL)",
    "WRONGTYPE": "one of the store's keys holds a value of another type (WRONGTYPE)",
    "MOVED": "it is one node of a cluster and does not have the key (MOVED)",
    "ASK": "it is one node of a cluster and is migrating the key (ASK)",
    "TRYAGAIN": "its cluster is moving the key's slot to another node (TRYAGAIN)",
    "CLUSTERDOWN": "its cluster is down (CLUSTERDOWN)",
    "CROSSSLOT": "its cluster wants the keys of a script in one slot (CROSSSLOT)",
    "NOSCRIPT": "it keeps no scripts (NOSCRIPT)",
    "MAXCLIENTS": "it has too many clients (see maxclients)",
}
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
_SCRIPT_DENIED = re.compile(r"user executing the script can't|ACL failure in script")
# A redirection's slot, host and port. An empty host is that of the node that answered.
_REDIRECTION = re.compile(r"(?:^| )(\d+) (\S*):(\d+)$")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error in place of an answer: the first word of the server's message, and its address."""

    code: str
    host: str = ""
    port: int = 0


def refusal_of(error: BaseException) -> Refusal:
    """Return what a server's error says."""
    code = _code(error)
    found = _REDIRECTION.search(str(error)) if code in ("MOVED", "ASK") else None
    return Refusal(code, found[2], int(found[3])) if found else Refusal(code)


def _code(error: BaseException) -> str:
    if _SCRIPT_DENIED.search(str(error)):
        return "SCRIPT"
    for kind, code in _CODES:
        if isinstance(error, kind):
            return "NOAUTH" if "uthentication required" in str(error) else code
    if "max number of clients" in str(error):
        return "MAXCLIENTS"
    inner = _INNER_CODE.search(str(error))
    return inner[1] if inner else str(error).split(" ", 1)[0][:20]


# --- URLs ---------------------------------------------------------------------------------------

Kind: TypeAlias = Literal["server", "sentinel", "cluster"]
Address: TypeAlias = tuple[str, int]

_TLS_OPTIONS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
_SENTINEL_OPTIONS = {"sentinel_user", "sentinel_password"}
_FORMS = {
    "": "redis://[[user]:password@]host[:port][/database]",
    "unix": "redis+unix://[[user]:password@]/path/of/socket[?db=database]",
    "sentinel": "redis+sentinel://[[user]:password@]host[:port],host[:port],.../name[/database]",
    "cluster": "redis+cluster://[[user]:password@]host[:port],host[:port],...",
}


@dataclass(frozen=True, slots=True)
class Login:
    """How to connect and log in to servers: `options` are redis-py's for TLS. Times in seconds."""

    timeout: float
    tls: bool = False
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    database: int = 0
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    waits: bool = False


class Target(NamedTuple):
    """What a URL names. `places`: addresses, or the path of a socket; `name`: the sentinels'."""

    kind: Kind
    places: Sequence[Address | str]
    login: Login
    sentinel_login: Login
    name: str = ""


def parse_url(url: str, timeout: float, waits: bool = False) -> Target:
    """Parse the URL of a server, of sentinels or of a cluster.

    Raises ConfigurationError, which does not quote it.
    """
    scheme, _, form = url.partition(":")[0].partition("+")
    wrong = ConfigurationError(
        f"storage: expected {_FORMS.get(form, _FORMS[''])}, with rediss for TLS"
    )
    try:
        parts = urllib.parse.urlsplit(url)
        tls = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}[scheme]
        before, _, hosts = parts.netloc.rpartition("@")
        user, _, password = (urllib.parse.unquote(word) for word in before.partition(":"))
        options = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        path = urllib.parse.unquote(parts.path)
        places: list[Address | str]
        name, port = "", 26379 if form == "sentinel" else 6379
        if form == "unix":
            number = options.pop("db", "0")
            places = [path] if not hosts and path > "/" else []
        else:
            places = [_parse_host(host, port) for host in hosts.split(",")]
            words = path.strip("/").split("/") if path.strip("/") else []
            if form == "sentinel":
                name = words.pop(0)
            number = words.pop(0) if words else "0"
            if words:
                raise wrong
        database = int(number)
    except (ValueError, KeyError, IndexError):
        raise wrong from None
    if form not in _FORMS or not places or database < 0 or parts.fragment:
        raise wrong
    if form == "" and len(places) > 1:
        raise ConfigurationError(
            "storage: redis:// takes one host; for several of them, write redis+sentinel://"
            "host,host,host/name for sentinels, or redis+cluster://host,host,host for a cluster"
        )
    if form == "cluster" and (number != "0"):
        raise ConfigurationError("storage: a Redis Cluster has only the database 0")
    if form == "unix" and tls:
        raise ConfigurationError("storage: a socket has no TLS; write redis+unix://")
    if user and not password:
        raise ConfigurationError("storage: the Redis URL has a user but no password")
    sentinel_user, sentinel_password = (
        options.pop(option, "") if form == "sentinel" else ""
        for option in ("sentinel_user", "sentinel_password")
    )
    unknown = sorted(options.keys() - (_TLS_OPTIONS if tls else set()))
    if unknown:
        raise ConfigurationError(
            f"storage: the Redis URL takes no {show_name('option', unknown[0])}; it takes"
            f" {', '.join(sorted(_TLS_OPTIONS))} with rediss only, and"
            f" {', '.join(sorted(_SENTINEL_OPTIONS))} with redis+sentinel"
        )
    for option, file in options.items():
        check_file(option, file)
    login = Login(timeout, tls, user, password, database, options, waits)
    sentinel_login = Login(timeout, tls, sentinel_user, sentinel_password, 0, options)
    kind: Kind = "sentinel" if form == "sentinel" else "cluster" if form == "cluster" else "server"
    return Target(kind, places, login, sentinel_login, name)


def _parse_host(text: str, port: int) -> Address:
    parts = urllib.parse.urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError
    return parts.hostname, parts.port or port


def show_address(place: Address | str) -> str:
    return place if isinstance(place, str) else f"{place[0]}:{place[1]}"


# --- what a server is ---------------------------------------------------------------------------


def explain_wrong_kind(kind: Kind, address: str, hello: Any) -> str | None:
    """Return why a server is of another kind than `kind`, by its answer to HELLO; None if not.

    A Redis before 6.0 and some proxies do not know HELLO, and count as right.
    """
    if isinstance(hello, list):
        hello = dict(zip(hello[::2], hello[1::2], strict=False))
    if not isinstance(hello, dict):
        return None
    mode, role = hello.get(b"mode"), hello.get(b"role")
    if mode == b"sentinel":
        return f"it is a sentinel and no store; write redis+sentinel://{address}/NAME"
    if mode == b"cluster" and kind != "cluster":
        return f"it is one node of a cluster; write redis+cluster://{address}"
    if mode == b"standalone" and kind == "cluster":
        return f"it is no node of a cluster; write redis://{address}"
    if role in (b"replica", b"slave") and kind != "cluster":
        return (
            "it is a replica and takes no writes; write the address of its primary, or"
            " redis+sentinel://HOST,HOST,HOST/NAME to follow a failover"
        )
    return None


# --- connections --------------------------------------------------------------------------------


_KEEPALIVE = {
    getattr(socket, name): value
    for name, value in zip(("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"), KEEPALIVE, strict=True)
    if hasattr(socket, name)
}


class Owner(Protocol):
    """The client in whose name connections are opened. `note_connection` is called for each."""

    address: str

    def unavailable(self, why: str) -> StorageUnavailable: ...
    def unusable(self, why: str) -> StorageUnusable: ...
    def note_connection(self) -> None: ...


def _explain(error: Exception, database: object) -> str:
    """Say why there is no connection, without repeating a secret."""
    if "DB index" in str(error):
        return f"it has no database {database}"
    if "without any password" in str(error) or "no password is set" in str(error):
        return "it has no password, but the settings have one"
    # Of a socket's error redis-py shows the text, which may name what is no secret here.
    cause = error.__context__ if isinstance(error.__context__, OSError) else error
    return REFUSALS.get(_code(error), f"no connection ({type(cause).__name__})")


class ServerConnections(Connections):
    """Connections to the server at `place`, which must be a `kind`; None: of sentinels."""

    def __init__(self, owner: Owner, place: Address | str, login: Login, kind: Kind | None) -> None:
        super().__init__()
        self.place, self.address = place, show_address(place)
        self._owner, self._login = owner, login
        self._kind: Kind | None = kind

    def open(self, deadline: float) -> Any:
        connection = self._connect(deadline, self._login.timeout)
        self._owner.note_connection()
        return connection

    def ask(self, deadline: float, *words: bytes) -> Any:
        """Return the answer to a command over a separate connection, by `deadline`."""
        connection = self._connect(deadline, max(deadline - time.monotonic(), 0.001))
        try:
            return _exchange(connection, words)
        finally:
            connection.disconnect()

    def subscribe(self, deadline: float, channel: bytes) -> RedisListener:
        """Open a connection that receives what is published on a channel.

        Raises StorageError if the user may not subscribe.
        """
        connection = self._connect(deadline, self._login.timeout)
        try:
            _exchange(connection, (b"SUBSCRIBE", channel))
        except redis.ResponseError as error:
            connection.disconnect()
            code = _code(error)
            raise StorageError(
                f"redis store {self.address}: SUBSCRIBE: {REFUSALS.get(code, code)}"
            ) from None
        except BaseException as error:
            connection.disconnect()
            if isinstance(error, (redis.RedisError, OSError)):
                raise self._unavailable("the connection broke") from None
            raise
        return RedisListener(connection, self._unavailable("the connection for hints broke"))

    def _connect(self, deadline: float, timeout: float) -> Any:
        """Open a connection whose replies may take `timeout` seconds each."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._unavailable("no connection in time")
        login = self._login
        common: dict[str, Any] = {
            "socket_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "redis_connect_func": self._handshake,
        }
        kind: Any = SSLConnection if login.tls else Connection
        if isinstance(self.place, str):
            kind = UnixDomainSocketConnection
            connection = kind(path=self.place, **common)
        else:
            connection = kind(
                host=self.place[0],
                port=self.place[1],
                socket_connect_timeout=min(left, login.timeout),
                socket_keepalive=True,
                socket_keepalive_options=_KEEPALIVE,
                **common,
                **login.options,
            )
        # Reporting the library's name would cost each new connection two more round trips.
        connection.driver_info = connection.lib_name = connection.lib_version = None
        try:
            connection.connect()
        except (redis.RedisError, UnicodeError) as error:
            raise self._unavailable(self._explain(error)) from None
        except BaseException:
            connection.disconnect()
            raise
        if time.monotonic() > deadline:
            connection.disconnect()
            raise self._unavailable(self._within())
        return connection

    def _handshake(self, connection: Any) -> None:
        """Log in and get an echo in one round trip: a server may accept and not answer."""
        login, echo = self._login, os.urandom(ECHO_BYTES)
        commands: list[Sequence[bytes]] = []
        if login.password:
            words = [login.user, login.password] if login.user else [login.password]
            commands.append((b"AUTH", *(word.encode() for word in words)))
        if login.database:
            commands.append((b"SELECT", b"%d" % login.database))
        count = len(commands)
        # The least that shows whether the user may WAIT.
        commands += [(b"WAIT", b"0", b"1")] * login.waits
        # Sentinels know no ECHO, and a server whose disk is full refuses PING.
        commands += [(b"ECHO" if self._kind else b"PING", echo), (b"HELLO",)]
        connection.on_connect()
        connection.send_packed_command(
            [b"".join(pack(words) for words in commands)], check_health=False
        )
        answers = [connection.read_response(disable_decoding=True) for _ in commands[:-2]]
        refusal: redis.ResponseError | None = None
        try:
            answers.append(connection.read_response(disable_decoding=True))
        except redis.ResponseError as error:
            refusal = error  # a sentinel's, say
        if refusal is None and (answers[:count] != [b"OK"] * count or answers[-1] != echo):
            raise redis.InvalidResponse
        try:
            hello = connection.read_response(disable_decoding=True)
        except redis.ResponseError:
            hello = None
        why = self._kind and explain_wrong_kind(self._kind, self.address, hello)
        if refusal is not None and not why:
            raise refusal
        if why and self._kind == "sentinel":
            # A failover is under way: the sentinels will name another.
            connection.disconnect()
            raise self._unavailable(why)
        if why:
            connection.disconnect()
            raise self._owner.unusable(why)

    def _explain(self, error: Exception) -> str:
        if isinstance(error, redis.TimeoutError):
            return self._within()
        return _explain(error, self._login.database)

    def _unavailable(self, why: str) -> StorageUnavailable:
        is_one = self._owner.address == self.address
        return self._owner.unavailable(why if is_one else f"{self.address}: {why}")

    def _within(self) -> str:
        return f"no connection within {self._login.timeout:g} s"

    def _is_quiet(self, connection: Any) -> bool:
        try:
            return not connection.can_read()
        except (redis.RedisError, OSError):
            return False

    def drop(self, connection: Any) -> None:
        # In a forked child this closes the descriptor but not the connection.
        connection.disconnect()


class RedisListener:
    """A connection that has subscribed to a channel. `broken`: the error when it breaks."""

    def __init__(self, connection: Any, broken: StorageUnavailable) -> None:
        self._connection, self._broken = connection, broken

    def wait(self, seconds: float) -> bool:
        is_hinted = False
        try:
            while self._connection.can_read(timeout=0 if is_hinted else seconds):
                self._connection.read_response(disable_decoding=True)
                is_hinted = True
        except (redis.RedisError, OSError):
            raise self._broken from None
        return is_hinted

    def close(self) -> None:
        self._connection.disconnect()


class LentConnections(Connections):
    """Connections of the pool of a redis-py client, which checks, replaces and counts them."""

    def __init__(self, owner: Owner, pool: Any) -> None:
        super().__init__()
        self._owner, self._pool = owner, pool

    def take(self, deadline: float, is_checked: bool = True) -> Any:
        return self.open(deadline)

    def open(self, deadline: float) -> Any:
        try:
            connection = self._pool.get_connection()
        except Exception as error:  # redis-py may raise any for a reply that is not its own
            self._owner.note_connection()
            database = self._pool.connection_kwargs.get("db", 0)
            raise self._owner.unavailable(_explain(error, database)) from None
        if connection.socket_timeout is None:
            self.give(connection)
            raise self._owner.unusable(
                "its client must have a socket_timeout; without it, a server that does not answer"
                " blocks every request"
            )
        return connection

    def ask(self, deadline: float, *words: bytes) -> Any:
        """Return the answer to a command."""
        connection = self.open(deadline)
        try:
            return _exchange(connection, words)
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self.give(connection)

    def give(self, connection: Any) -> None:
        self._pool.release(connection)

    def drop(self, connection: Any) -> None:
        # Its pool connects it again when it is used next.
        self._owner.note_connection()
        connection.disconnect()
        self._pool.release(connection)

    def close_idle(self) -> None:
        self._pool.disconnect(inuse_connections=False)

    def _is_quiet(self, connection: Any) -> bool:
        return True  # the pool has looked


Node: TypeAlias = ServerConnections | LentConnections


def pack(words: Sequence[bytes]) -> bytes:
    """Encode a command in Redis's protocol."""
    return b"*%d\r\n" % len(words) + b"".join(
        [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    )


def _exchange(connection: Any, words: Sequence[bytes]) -> Any:
    connection.send_packed_command([pack(words)], check_health=False)
    return connection.read_response(disable_decoding=True)

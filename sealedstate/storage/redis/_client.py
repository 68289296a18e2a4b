"""A client of Redis servers that reports whether a failed write may have happened.

redis-py provides the connections. Its client is not used, because it sends a command again (up to
ten times, by default) when its reply was lost. Every request begins with an ECHO of fresh random
bytes, and a reply that does not follow their echo is not trusted.

`timeout` bounds each wait for a reply, and all connecting, asking of sentinels and reading of a
cluster's map together, so that a call ends within twice the timeout, or within the timeout if there
is a connection. What was refused by a server that is not the right one (MOVED, ASK, READONLY
behind sentinels) did not happen and is sent once more, to the right one.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import (
    ConfigurationError,
    OutcomeUnknown,
    StorageError,
    StorageUnavailable,
    StorageUnusable,
)
from .._network import Broken, Connections, ServerClient
from ..contract import Listener
from ._nodes import choose_nodes, lend_nodes
from ._scripts import Script
from ._servers import (
    ECHO_BYTES,
    REFUSALS,
    Refusal,
    ServerConnections,
    explain_wrong_kind,
    pack,
    parse_url,
    redis,
    refusal_of,
    show_address,
)

# The refusals that a script may receive after it has begun to write.
_PARTIAL = ("SCRIPT", "WRONGTYPE")
# The part of the timeout that a server may wait for its replicas, so that its answer is in time.
_WAIT_PART = 0.8
# How late that answer may be in seconds: a server with nothing to do looks 10 times a second.
_WAIT_LATE = 0.1


class RedisClient(ServerClient):
    """A client of the servers at a URL, or of a redis-py client.

    `connects` counts the connections that were opened. `wait`: how many replicas confirm a write
    for which that is asked. Raises ConfigurationError.
    """

    knows_replies = True

    def __init__(self, source: Any, timeout: float, wait: int = 0) -> None:
        self.connects, self.wait = 0, wait
        if isinstance(source, str):
            target = parse_url(source, timeout, wait > 0)
            super().__init__("redis", ",".join(map(show_address, target.places)), timeout)
            self._nodes = choose_nodes(self, target)
        elif isinstance(source, (redis.Redis, redis.cluster.RedisCluster)):
            address, known = "of a cluster client", dict[str, Any]()
            if isinstance(source, redis.Redis):
                known = source.connection_pool.connection_kwargs
                place = (known.get("host", "localhost"), known.get("port", 6379))
                address = known.get("path") or show_address(place)
                if name := getattr(source.connection_pool, "service_name", ""):
                    address = f"{name} of sentinels"
            else:
                known = source.nodes_manager.connection_kwargs
            super().__init__("redis", address, known.get("socket_timeout") or timeout)
            self._nodes = lend_nodes(self, source)
        else:
            raise ConfigurationError(
                "client: must be a URL, a redis.Redis or a redis.cluster.RedisCluster, got"
                f" {type(source).__module__}.{type(source).__name__}"
            )
        self.buckets = self._nodes.buckets

    def close(self) -> None:
        """Close idle connections."""
        self._nodes.close()

    def note_connection(self) -> None:
        self.connects += 1

    def unusable(self, why: str) -> StorageUnusable:
        """Make an error that names the server, for what an operator must change."""
        return StorageUnusable(str(self.unavailable(why)))

    def check(self) -> None:
        """Ask each server that takes writes for an answer, and what it is.

        Raises StorageUnavailable, and StorageUnusable if a server is not what it is used as.
        """
        for node in self.every():
            (hello,) = self.read_many((b"HELLO",), node=node)
            why = explain_wrong_kind(self._nodes.kind, self.address, hello)
            if why is not None:
                raise self.unusable(why)

    def every(self) -> Sequence[Connections]:
        """Return the servers that take writes."""
        return self._nodes.every(time.monotonic() + self._timeout)

    def read(
        self,
        *words: bytes,
        accept: Callable[[Any], bool] = lambda answer: True,
        node: Connections | None = None,
    ) -> Any:
        """Return the answer to a command that reads a key, or of a node if one is given.

        Raises StorageUnavailable, also for an answer that `accept` rejects.
        """
        key = words[1] if len(words) > 1 else b""
        (answer,) = self._request([words], key, is_read=True, accept=accept, node=node)
        if isinstance(answer, Refusal):
            raise self._as_storage_error(answer, is_read=True)
        return answer

    def read_many(self, *commands: Sequence[bytes], node: Connections) -> list[Any]:
        """Return a node's answers to commands that read, and None for those that it refused."""
        answers = self._request(commands, b"", is_read=True, node=node)
        return [None if isinstance(answer, Refusal) else answer for answer in answers]

    def subscribe(self, channel: bytes) -> Listener | None:
        """Open a connection that receives what is published; None for a client's pool.

        Raises StorageUnavailable, and StorageError if the user may not subscribe.
        """
        deadline = time.monotonic() + self._timeout
        (node,) = self._nodes.every(deadline)
        return node.subscribe(deadline, channel) if isinstance(node, ServerConnections) else None

    def call_each(self, script: Script, calls: Sequence[tuple[bytes, ...]]) -> list[Any]:
        """Return the answers of a script that reads, called for several keys.

        Each call: a key and the script's arguments. A node gets all of its calls in one request.
        """
        answers: dict[int, Any] = {}
        by_node: dict[Connections, list[int]] = {}
        deadline = time.monotonic() + self._timeout
        if len(calls) > 1:
            for number, (key, *_) in enumerate(calls):
                by_node.setdefault(self._nodes.place(key, deadline), []).append(number)
        for node, numbers in by_node.items():
            echo = os.urandom(ECHO_BYTES)
            commands = []
            for number in numbers:
                key, *arguments = calls[number]
                commands.append((b"EVALSHA", script.sha, b"1", key, echo, *arguments))
            accept = functools.partial(_begins_with, echo)
            found = self._request(commands, b"", is_read=True, accept=accept, node=node)
            answers |= {
                number: answer[1]
                for number, answer in zip(numbers, found, strict=True)
                if not isinstance(answer, Refusal)
            }
        # Those that were refused, because the node does not know the script or has not the key.
        for number, (key, *arguments) in enumerate(calls):
            if number not in answers:
                answers[number] = self.run(script, (key,), *arguments, is_read=True)
        return [answers[number] for number in range(len(calls))]

    def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        *arguments: bytes,
        is_read: bool = False,
        version: int | None = None,
        is_confirmed: bool = False,
    ) -> Any:
        """Return the answer of a script. It receives an echo, then the arguments.

        `is_confirmed`: `wait` replicas must have what this and earlier writes wrote, or it raises
        OutcomeUnknown. Raises StorageUnavailable, and unless it only reads,
        OutcomeUnknown(version).
        """
        echo = os.urandom(ECHO_BYTES)
        rest = (b"%d" % len(keys), *keys, echo, *arguments)

        def accept(answer: Any) -> bool:
            return isinstance(answer, int) or _begins_with(echo, answer)

        waits = is_confirmed and self.wait > 0
        patience = max((self._timeout - _WAIT_LATE) * _WAIT_PART * 1000, 1)
        wait = [(b"WAIT", b"%d" % self.wait, b"%d" % patience)] if waits else []
        answers: list[Any] = []
        for words in ((b"EVALSHA", script.sha, *rest), (b"EVAL", script.text, *rest)):
            answers = self._request([words, *wait], keys[0], is_read, version, accept)
            if not isinstance(answers[0], Refusal) or answers[0].code != "NOSCRIPT":
                break
        answer = answers[0]
        if isinstance(answer, Refusal):
            raise self._as_storage_error(answer, is_read, version)
        found = answer[1] if isinstance(answer, list) else answer[ECHO_BYTES:]
        if wait:
            if found[:1] != b"1":
                # WAIT waits for the writes of this connection, and the script wrote nothing: what
                # it has seen is the write of another, which may not have reached the replicas.
                mark = keys[0][: keys[0].rindex(b"}") + 1] + b":mark"  # in the same slot
                set_mark = (b"SET", mark, b"", b"PX", b"1000")
                answers = self._request([set_mark, *wait], keys[0], False, version)
            confirmed = answers[1]
            if isinstance(confirmed, Refusal):
                raise self._as_storage_error(Refusal(f"WAIT: {confirmed.code}"), False, version)
            if confirmed < self.wait:
                raise OutcomeUnknown(
                    f"redis store {self.address}: it has written, but only {confirmed} of"
                    f" {self.wait} replicas have confirmed that within {patience / 1000:g} s",
                    version,
                )
        return found

    # --- one request, one reply -----------------------------------------------------------------

    def _request(
        self,
        commands: Sequence[Sequence[bytes]],
        key: bytes,
        is_read: bool,
        version: int | None = None,
        accept: Callable[[Any], bool] = lambda answer: True,
        node: Connections | None = None,
    ) -> list[Any]:
        """Return the answers to commands, or Refusals among them, of the server that has `key`.

        With a `node`, of that server.
        """
        deadline, nodes = time.monotonic() + self._timeout, self._nodes
        connections = nodes.place(key, deadline) if node is None else node
        asks, followed = False, set[str]()
        while True:
            try:
                answers = self._exchange(
                    connections, deadline, commands, is_read, version, accept, asks
                )
            except StorageUnusable:
                raise
            except StorageUnavailable:
                # Nothing was written, and the time is not over if another server is named.
                other = nodes.replace(connections, key, 0 if node else deadline)
                if other is None or "" in followed:
                    raise
                followed.add("")
                connections, asks = other, False
                continue
            except OutcomeUnknown:
                nodes.replace(connections, key, 0)
                raise
            first = answers[0]
            if node is not None or not isinstance(first, Refusal):
                return answers
            if first.code in followed:
                return answers
            again = nodes.redirect(connections, first, key, deadline)
            if again is None:
                return answers
            if first.code != "TRYAGAIN":
                followed.add(first.code)
            connections, asks = again

    def _exchange(
        self,
        connections: Connections,
        deadline: float,
        commands: Sequence[Sequence[bytes]],
        is_read: bool,
        version: int | None,
        accept: Callable[[Any], bool],
        asks: bool,
    ) -> list[Any]:
        echo = os.urandom(ECHO_BYTES)
        # The ECHO comes first: if the request is cut off, the command is incomplete. PING would be
        # refused by a server that cannot save to its disk.
        before: list[Sequence[bytes]] = [(b"ECHO", echo)]
        if asks:
            before.append((b"ASKING",))
        request = b"".join([pack(words) for words in (*before, *commands)])

        def exchange(connection: Any) -> list[Any]:
            _send(connection, request)
            count = len(before) + len(commands)
            first, *answers = [_receive(connection) for _ in range(count)]
            answers = answers[len(before) - 1 :]
            if first != echo or not all(
                isinstance(answer, Refusal) or accept(answer) for answer in answers
            ):
                raise Broken
            return answers

        return self._call(connections, deadline, exchange, is_read, version)

    def _as_storage_error(
        self, refusal: Refusal, is_read: bool, version: int | None = None
    ) -> StorageError:
        why = REFUSALS.get(refusal.code, f"it answered with an error ({refusal.code})")
        wrote_nothing = refusal.code in REFUSALS and refusal.code not in _PARTIAL
        return self._failure(why, is_read or wrote_nothing, version)


def _begins_with(echo: bytes, answer: Any) -> bool:
    first = answer[0] if isinstance(answer, list) else answer
    return isinstance(first, bytes) and first.startswith(echo)


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
        return refusal_of(error)
    except Exception as error:  # redis-py may raise any for the reply of another request
        raise Broken(isinstance(error, redis.TimeoutError)) from error

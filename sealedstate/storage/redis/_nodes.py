"""Which Redis server gets a request: that of a URL, a primary that sentinels name, or a node.

redis-py's own clients of sentinels and clusters are used only if an application hands them in, and
then only their pools. They send a write again whose reply was lost, ask sentinels without a common
deadline, and connect when they are made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..._forks import ForkSafeLock
from ...errors import StorageUnavailable, StorageUnusable
from .._network import Connections
from ._servers import (
    REFUSALS,
    Address,
    Kind,
    LentConnections,
    Node,
    Owner,
    Refusal,
    ServerConnections,
    Target,
    redis,
    refusal_of,
    show_address,
)

SLOTS = 16384
# Over how many slots a context is spread in a cluster. Each is a list of keys, so more of them make
# `keys` slower, and fewer spread the records less evenly.
BUCKETS = 256

_ASK_PAUSE = 1.0  # seconds between two questions to sentinels
_RELOAD_PAUSE = 1.0  # seconds between two readings of a cluster's map because of MOVED
_TRY_AGAIN_PAUSE = 0.01


class Nodes(Protocol):
    """Chooses the server for a key. `buckets`: over how many slots a context is spread."""

    kind: Kind
    buckets: int

    def place(self, key: bytes, deadline: float) -> Connections:
        """Return the connections to the server that has a key. Raises StorageUnavailable."""
        ...

    def every(self, deadline: float) -> Sequence[Connections]:
        """Return those to each server that takes writes."""
        ...

    def redirect(
        self, asked: Connections, refusal: Refusal, key: bytes, deadline: float
    ) -> tuple[Connections, bool] | None:
        """Return which server to ask after a refusal, and whether with ASKING; None: no other."""
        ...

    def replace(self, silent: Connections, key: bytes, deadline: float) -> Connections | None:
        """Return which server to ask in place of one that did not answer; None: no other."""
        ...

    def close(self) -> None: ...


class OneServer:
    """One server, or the server to which the pool of a redis-py client leads."""

    kind: Kind = "server"
    buckets = 1

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def place(self, key: bytes, deadline: float) -> Connections:
        return self._connections

    def every(self, deadline: float) -> Sequence[Connections]:
        return [self._connections]

    def redirect(
        self, asked: Connections, refusal: Refusal, key: bytes, deadline: float
    ) -> tuple[Connections, bool] | None:
        return None

    def replace(self, silent: Connections, key: bytes, deadline: float) -> Connections | None:
        return None

    def close(self) -> None:
        self._connections.close_idle()


class Sentinels:
    """The primary that sentinels name.

    They are asked again when a connection has broken, and once a second: in a failover that an
    operator starts, the old primary takes writes for some eight seconds more, and forgets them.
    """

    kind: Kind = "sentinel"
    buckets = 1

    def __init__(self, owner: Owner, target: Target) -> None:
        self._owner, self._target = owner, target
        self._sentinels = [
            ServerConnections(owner, place, target.sentinel_login, None) for place in target.places
        ]
        self._answered = 0  # the sentinel that is asked first
        self._primary: ServerConnections | None = None
        self._is_known, self._asked_at = False, 0.0
        self._lock = ForkSafeLock()

    def place(self, key: bytes, deadline: float) -> Connections:
        known = self._primary
        if known is None or not self._is_known:
            return self._find(deadline)
        if time.monotonic() - self._asked_at < _ASK_PAUSE or not self._lock.acquire(blocking=False):
            return known
        try:
            return self._find(deadline)
        except StorageUnavailable:
            return known  # while no sentinel answers, there is no failover
        finally:
            self._lock.release()

    def every(self, deadline: float) -> Sequence[Connections]:
        return [self.place(b"", deadline)]

    def redirect(
        self, asked: Connections, refusal: Refusal, key: bytes, deadline: float
    ) -> tuple[Connections, bool] | None:
        if refusal.code not in ("READONLY", "MASTERDOWN"):
            return None
        other = self.replace(asked, key, deadline)
        return None if other is None else (other, False)

    def replace(self, silent: Connections, key: bytes, deadline: float) -> Connections | None:
        silent.close_idle()
        if silent is self._primary:  # another thread may have found the next one
            self._is_known = False
        if time.monotonic() >= deadline:
            return None  # the next call asks the sentinels
        found = self.place(key, deadline)
        return None if found is silent else found

    def close(self) -> None:
        if self._primary is not None:
            self._primary.close_idle()

    def _find(self, deadline: float) -> ServerConnections:
        count, name = len(self._sentinels), self._target.name
        self._asked_at = time.monotonic()
        why, is_wrong, silent = "", False, ["no sentinel answers"]
        prefix = str(self._owner.unavailable(""))
        for number in range(count):
            at = (self._answered + number) % count
            # One that does not answer leaves time for the others, and for the primary.
            now = time.monotonic()
            until = now + (deadline - now) / (count - number + 1)
            sentinel = self._sentinels[at]
            try:
                found = sentinel.ask(until, b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name.encode())
            except StorageUnavailable as error:
                silent.append(str(error).removeprefix(prefix))
                continue
            except redis.ResponseError as error:
                is_wrong = "unknown command" in str(error).lower()
                if is_wrong:
                    why = f"{sentinel.address} is no sentinel; write redis:// or redis+cluster://"
                else:
                    code = refusal_of(error).code
                    known_why = REFUSALS.get(code, f"it answered with an error ({code})")
                    why = f"sentinel {sentinel.address}: {known_why}"
                continue
            except (redis.RedisError, OSError):
                continue
            if not isinstance(found, list) or len(found) != 2:
                why, is_wrong = f"the sentinels know no primary of the name {name!r}", True
                continue
            self._answered = at
            place = (found[0].decode(), int(found[1]))
            known = self._primary
            if known is None or known.place != place:
                if known is not None:
                    known.close_idle()
                known = ServerConnections(self._owner, place, self._target.login, "sentinel")
                self._primary = known
            self._is_known = True
            return known
        why = why or "; ".join(silent)
        raise self._owner.unusable(why) if is_wrong else self._owner.unavailable(why)


class Cluster:
    """The nodes of a cluster, by its map of slots. `connect` returns the connections to one."""

    kind: Kind = "cluster"
    buckets = BUCKETS

    def __init__(
        self, owner: Owner, places: Sequence[Address], connect: Callable[[Address], Node]
    ) -> None:
        self._owner, self._first, self._connect = owner, list(places), connect
        self._nodes: dict[Address, Node] = {}
        self._map: list[Address | None] | None = None
        self._lock = ForkSafeLock()
        self._read_at = 0.0
        self._is_stale = True

    def place(self, key: bytes, deadline: float) -> Connections:
        slot = redis.crc.key_slot(key)
        found = self._current_map(deadline)[slot]
        if found is None:
            self._is_stale = True
            raise self._owner.unavailable(f"no node of the cluster has the slot {slot}")
        return self._node(found)

    def every(self, deadline: float) -> Sequence[Connections]:
        places = dict.fromkeys(self._current_map(deadline))
        found = [self._node(place) for place in places if place is not None]
        if not found:
            raise self._owner.unavailable("no node of the cluster has a slot")
        return found

    def redirect(
        self, asked: Connections, refusal: Refusal, key: bytes, deadline: float
    ) -> tuple[Connections, bool] | None:
        if refusal.code == "TRYAGAIN":
            # Of a slot that moves, some of a script's keys have arrived at the other node.
            time.sleep(_TRY_AGAIN_PAUSE)
            return (self.place(key, deadline), False) if time.monotonic() < deadline else None
        if refusal.code == "CLUSTERDOWN":
            self._is_stale = True
        if not refusal.port:
            return None
        host = refusal.host
        if not host:
            host = next((at[0] for at, node in self._nodes.items() if node is asked), "")
        place = (host, refusal.port)
        if refusal.code == "MOVED":
            if self._map is not None:
                self._map[redis.crc.key_slot(key)] = place
            # More slots may have moved.
            self._is_stale = True
        return self._node(place), refusal.code == "ASK"

    def replace(self, silent: Connections, key: bytes, deadline: float) -> Connections | None:
        self._is_stale, self._read_at = True, 0.0
        if time.monotonic() >= deadline:
            return None
        found = self.place(key, deadline)
        return None if found is silent else found

    def close(self) -> None:
        for node in list(self._nodes.values()):
            node.close_idle()

    def _node(self, place: Address) -> Node:
        node = self._nodes.get(place)
        # Of two threads, one sets it.
        return node or self._nodes.setdefault(place, self._connect(place))

    def _current_map(self, deadline: float) -> list[Address | None]:
        known = self._map
        if known is not None:
            is_due = self._is_stale and time.monotonic() - self._read_at > _RELOAD_PAUSE
            if not is_due or not self._lock.acquire(blocking=False):
                return known
            try:
                return self._read_map(deadline)
            except StorageUnavailable:
                return known
            finally:
                self._lock.release()
        return self._read_map(deadline)

    def _read_map(self, deadline: float) -> list[Address | None]:
        """Read the map from the first node that answers, and ask that node first next time."""
        self._read_at = time.monotonic()
        places = list(dict.fromkeys([*filter(None, self._map or ()), *self._first]))
        why: Exception | None = None
        for number, place in enumerate(places):
            now = time.monotonic()
            until = now + (deadline - now) / min(len(places) - number + 1, 4)
            try:
                answer = self._node(place).ask(until, b"CLUSTER", b"SLOTS")
            except StorageUnusable:
                raise
            except (StorageUnavailable, redis.RedisError, OSError) as error:
                why = error
                continue
            read: list[Address | None] = [None] * SLOTS
            for first, last, (host, port, *_), *_ in answer:
                # An empty host, or none, is that of the node that was asked.
                at = ((host or b"").decode() or place[0], int(port))
                read[first : last + 1] = [at] * (last - first + 1)
            self._map, self._is_stale = read, False
            self._first = [place, *(other for other in self._first if other != place)]
            return read
        if isinstance(why, StorageUnavailable):
            raise why
        raise self._owner.unavailable("no node of the cluster answers")


def choose_nodes(owner: Owner, target: Target) -> Nodes:
    """Return the servers that a URL names."""
    if target.kind == "sentinel":
        return Sentinels(owner, target)

    def connect(place: Address | str) -> Node:
        return ServerConnections(owner, place, target.login, target.kind)

    if target.kind == "cluster":
        hosts = [place for place in target.places if not isinstance(place, str)]
        return Cluster(owner, hosts, connect)
    return OneServer(connect(target.places[0]))


def lend_nodes(owner: Owner, client: Any) -> Nodes:
    """Return the servers of a redis-py client, by its pools."""
    if not isinstance(client, redis.cluster.RedisCluster):
        return OneServer(LentConnections(owner, client.connection_pool))
    cluster: Any = client  # its methods have no types

    def connect(place: Address) -> Node:
        node = cluster.get_node(*place)
        if node is None:  # it has joined the cluster after the client has read its map
            cluster.nodes_manager.initialize()
            node = cluster.get_node(*place)
        if node is None:
            raise owner.unavailable(f"its client does not know the node {show_address(place)}")
        return LentConnections(owner, cluster.get_redis_connection(node).connection_pool)

    return Cluster(owner, [(node.host, node.port) for node in cluster.get_nodes()], connect)

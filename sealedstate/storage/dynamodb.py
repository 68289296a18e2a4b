"""A store in a DynamoDB table, for applications that run no server: `DynamoDBStorage`.

Experimental. The table has a partition key `context_place` and a sort key `entry_place`, both
binary. An item is a record or a member of an index:

- `context_place`: the digest of the context;
- `entry_place`: of a record, b"r" and the digest of its key; of a member, b"i", the digest of the
  index's key and the BLAKE2b-256 of the member;
- `full_name`: the key or the member in UTF-8;
- `entry_version` and `entry_value`, of records only;
- `expires_at` in milliseconds, and `remove_at` in seconds, both absent from permanent items.

Each write is one request with a condition, and one atomic step. A checked write that was refused
reads the record to find out why. Reads are strongly consistent. The store's clock and `expires_at`
say whether an item is live; DynamoDB's TTL removes it by `remove_at`, REAP_AFTER later or some days
after that.

botocore signs and sends. Its retries are off: it would repeat a write whose reply was lost. It
takes a body that is empty, cut or no JSON for an answer without fields, and so for an absent
record. Therefore each request names a field that its answer must have, and asks for its consumed
capacity if there is no other. An answer of absence does not say to which request it belongs.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from time import monotonic, sleep
from typing import Any

from .._forks import ForkSafeLock
from ..errors import (
    ConfigurationError,
    OutcomeUnknown,
    StorageError,
    StorageUnavailable,
    StorageUnusable,
    VersionMismatch,
)
from .contract import (
    REAP_AFTER,
    Capabilities,
    Clock,
    Stored,
    check_arguments,
    context_digest,
    key_digest,
    millis,
    reap_time,
    utf8,
)

try:
    import botocore.session
    from botocore import exceptions
    from botocore.config import Config
except ImportError as missing:
    raise ConfigurationError(
        "storage: DynamoDB needs botocore: pip install sealedstate[dynamodb]"
    ) from missing

__all__ = ["DynamoDBStorage"]

# How long `prepare` waits for the table.
PREPARE_SECONDS = 60.0
# After this many seconds, `capabilities` tries again to reach the table.
RETRY_SECONDS = 1.0
# How many threads that call at the same time keep their connections.
CONNECTIONS = 64
# Milliseconds; replicas are usually a second behind, but there is no limit.
REPLICA_STALENESS = 3_600_000

_PLACES = ("context_place", "entry_place")
_TABLE: Mapping[str, Any] = {
    "KeySchema": [
        {"AttributeName": name, "KeyType": kind}
        for name, kind in zip(_PLACES, ("HASH", "RANGE"), strict=True)
    ],
    "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "B"} for name in _PLACES],
    "BillingMode": "PAY_PER_REQUEST",
}
_TTL: Mapping[str, Any] = {
    "TimeToLiveSpecification": {"AttributeName": "remove_at", "Enabled": True}
}
_LISTED = "context_place, entry_place, full_name, expires_at"
_LIVE = "attribute_exists(entry_place) AND (attribute_not_exists(expires_at) OR expires_at > :now)"
_ABSENT = "attribute_not_exists(entry_place) OR expires_at <= :now"
_VERSIONS = f"{_LIVE} AND entry_version >= :lowest AND entry_version <= :highest"
_UNMET, _NO_TABLE = "ConditionalCheckFailedException", "ResourceNotFoundException"
_PARAMETERS = {"region": "region_name", "endpoint_url": "endpoint_url", "profile": "profile"}

# An item has at most 409,600 bytes, with all of its names.
_UNKNOWN = Capabilities(
    context_bytes=1 << 16,
    key_bytes=1 << 12,
    value_bytes=400_000,
    shared=True,
    durable=False,
    survives_restart=False,
    evicts=False,
    enumerable=True,
    assumed=True,
)


class DynamoDBStorage:
    """Records in the table at `url`. `timeout`: seconds to wait for a connection, and for a reply.

    Raises ConfigurationError if the URL is not a table's, or botocore cannot use its parameters.
    """

    _address = "not opened"

    def __init__(self, url: str, clock: Clock, *, timeout: float = 0.5) -> None:
        self._clock, self._timeout = clock, timeout
        self._table, self._parameters = _parse_url(url)
        self._lock = ForkSafeLock()
        self._pid, self._opened = os.getpid(), self._open_client()
        self._host = urllib.parse.urlsplit(str(self._opened.meta.endpoint_url)).netloc
        self._address = f"{self._table} at {self._host}"
        self._capabilities, self._last_ping = _UNKNOWN, -RETRY_SECONDS
        self._is_silent = False

    def __repr__(self) -> str:
        return f"<DynamoDBStorage {self._address}>"

    @property
    def capabilities(self) -> Capabilities:
        """By the table's settings, once it was reached."""
        if self._capabilities.assumed and monotonic() > self._last_ping + RETRY_SECONDS:
            self._last_ping = monotonic()
            with contextlib.suppress(StorageError):
                self.ping()
        return self._capabilities

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        check_arguments(_UNKNOWN, context, key, value, expires_at, version)
        item = _record(context, key, value, expires_at, version)
        return self._write("put_item", _ABSENT, self._live(), version, Item=item)

    def read(self, context: str, key: str) -> Stored | None:
        check_arguments(_UNKNOWN, context, key)
        item = self._get(_place(context, key))
        if item is None:
            return None
        return Stored(_field(item, "entry_value"), _field(item, "entry_version"), _expiry(item))

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        check_arguments(_UNKNOWN, context, key, value, expires_at, version, expected)
        item = _record(context, key, value, expires_at, version)
        lowest, highest = 0, version - 1
        if expected is not None:
            lowest, highest = expected, min(expected, highest)
        return self._write_between(lowest, highest, "put_item", version, Item=item)

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        check_arguments(_UNKNOWN, context, key, b"", None, expected)
        place = _place(context, key)
        if expected is None:  # any version, so there is no mismatch to find
            return self._write("delete_item", _LIVE, self._live(), Key=place)
        return self._write_between(expected, expected, "delete_item", Key=place)

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        check_arguments(_UNKNOWN, context, "any")
        found = self._items(context, b"r")
        names = [_field(item, "full_name").decode() for item in found if self._is_live(item)]
        return iter([name for name in names if name.startswith(prefix)])

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        check_arguments(_UNKNOWN, context, key, utf8(member), expires_at)
        item = _member_place(context, key, member) | {"full_name": {"B": utf8(member)}}
        self._ask("put_item", is_read=False, Item=item | _expiry_fields(expires_at))

    def remove_member(self, context: str, key: str, member: str) -> bool:
        check_arguments(_UNKNOWN, context, key, utf8(member))
        place = _member_place(context, key, member)
        return self._write("delete_item", _LIVE, self._live(), Key=place)

    def members(self, context: str, key: str) -> dict[str, int | None]:
        check_arguments(_UNKNOWN, context, key)
        found = self._items(context, b"i" + key_digest(context, key))
        live = [item for item in found if self._is_live(item)]
        return {_field(item, "full_name").decode(): _expiry(item) for item in live}

    def ping(self) -> None:
        """Read a record and, once, the table's settings.

        Raises StorageUnusable if there is no such table or its key is another.
        """
        if self._capabilities.assumed:
            table = self._request("describe_table", "Table")["Table"]
            kinds = table.get("AttributeDefinitions", [])
            is_fit = all(kind in kinds for kind in _TABLE["AttributeDefinitions"])
            if table.get("KeySchema") != _TABLE["KeySchema"] or not is_fit:
                raise self._unusable("the table has another key, so it is not sealedstate's")
            self._capabilities = capabilities_by(table, self._has_ttl(), self._host)
        self._get(_place("sealedstate.ping", "ping"))

    def reap(self, limit: int) -> int:
        """As the contract says: by reading the whole table, unless its TTL is enabled."""
        if self.capabilities.native_expiry:
            return 0
        due, removed = {":due": {"N": str(reap_time(self._now()))}}, 0
        condition, fields = "expires_at <= :due", "context_place, entry_place"
        what: Any = {"FilterExpression": condition, "ProjectionExpression": fields}
        for item in self._pages("scan", ExpressionAttributeValues=due, **what):
            if removed >= limit:
                break
            removed += self._write("delete_item", condition, due, Key=item)
        return removed

    def close(self) -> None:
        if self._pid == os.getpid():
            self._opened.close()

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        check_arguments(_UNKNOWN, context, key, b"", expires_at)
        return self._set_expiry(_place(context, key), expires_at)

    def touch_context(self, context: str, expires_at: int | None) -> None:
        check_arguments(_UNKNOWN, context, "any", b"", expires_at)
        for item in self._items(context, b"r"):
            self._set_expiry(_place_of(item), expires_at)

    def delete_context(self, context: str) -> None:
        check_arguments(_UNKNOWN, context, "any")
        for kind in (b"r", b"i"):
            for item in self._items(context, kind):
                self._ask("delete_item", is_read=False, Key=_place_of(item))

    def prepare(self) -> None:
        """Create the table, billed on demand, and enable its TTL, where that is not done."""
        until = monotonic() + PREPARE_SECONDS
        while True:
            found = self._request("describe_table", "Table", _NO_TABLE)
            if found is not None and found["Table"].get("TableStatus") != "CREATING":
                break
            if found is None:  # another node may create it at the same moment
                in_use = "ResourceInUseException"
                self._request("create_table", "TableDescription", in_use, False, **_TABLE)
            if monotonic() > until:
                raise self._unavailable(f"the table was not ready within {PREPARE_SECONDS} s")
            sleep(0.1)
        if not self._has_ttl():
            # Of two nodes one is refused, and so is every node by an emulator without TTL.
            codes = "ValidationException UnknownOperationException"
            self._request("update_time_to_live", "TimeToLiveSpecification", codes, False, **_TTL)
        self._capabilities = _UNKNOWN
        self.ping()

    # --- items ----------------------------------------------------------------------------------

    def _now(self) -> int:
        return max(millis(self._clock()), 0)

    def _live(self) -> dict[str, Any]:
        """Return the value that the conditions of live and of absent items need."""
        return {":now": {"N": str(self._now())}}

    def _is_live(self, item: Mapping[str, Any]) -> bool:
        expires_at = _expiry(item)
        return expires_at is None or expires_at > self._now()

    def _get(self, place: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return a live item, or None."""
        item = self._ask("get_item", Key=place, ConsistentRead=True).get("Item")
        if item is not None and _place_of(item) != place:
            raise self._unavailable("it answered with another item")
        return item if item is not None and self._is_live(item) else None

    def _items(self, context: str, start: bytes) -> Iterator[dict[str, Any]]:
        """Yield what is listed of the items whose `entry_place` begins with `start`."""
        place = {"B": context_digest(context)}
        condition = "context_place = :place AND begins_with(entry_place, :start)"
        values = {":place": place, ":start": {"B": start}}
        what: Any = {"KeyConditionExpression": condition, "ProjectionExpression": _LISTED}
        for item in self._pages("query", ExpressionAttributeValues=values, **what):
            found = item.get("context_place"), _field(item, "entry_place")[: len(start)]
            if found != (place, start):
                raise self._unavailable("it answered with other items")
            yield item

    def _pages(self, operation: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        while True:
            answer = self._request(operation, "Items", ConsistentRead=True, **parameters)
            yield from answer["Items"]
            if not (last := answer.get("LastEvaluatedKey")):
                return
            parameters["ExclusiveStartKey"] = last

    def _set_expiry(self, place: Mapping[str, Any], expires_at: int | None) -> bool:
        values = {f":{name}": value for name, value in _expiry_fields(expires_at).items()}
        change = "SET expires_at = :expires_at, remove_at = :remove_at"
        if expires_at is None:
            change = "REMOVE expires_at, remove_at"
        values |= self._live()
        return self._write("update_item", _LIVE, values, Key=place, UpdateExpression=change)

    def _write_between(
        self, lowest: int, highest: int, operation: str, version: int | None = None, **what: Any
    ) -> bool:
        """Return whether a live record of a version in this range was changed.

        Raises VersionMismatch if a live record has another version.
        """
        until = monotonic() + self._timeout
        bounds = {":lowest": {"N": str(lowest)}, ":highest": {"N": str(highest)}}
        while not self._write(operation, _VERSIONS, self._live() | bounds, version, **what):
            if (item := self._get(_place_of(what.get("Key") or what["Item"]))) is None:
                return False
            if not lowest <= _field(item, "entry_version") <= highest:
                raise VersionMismatch(_field(item, "entry_version"))
            # The record was written between the two requests: the first can change it now.
            if monotonic() > until:
                raise self._unavailable("other clients wrote first")
        return True

    def _write(
        self,
        operation: str,
        condition: str,
        values: Mapping[str, Any],
        version: int | None = None,
        **parameters: Any,
    ) -> bool:
        """Return whether the condition was met, and so the write made."""
        parameters |= {"ConditionExpression": condition, "ExpressionAttributeValues": values}
        return self._ask(operation, _UNMET, False, version, **parameters) is not None

    # --- requests -------------------------------------------------------------------------------

    def _ask(self, operation: str, *arguments: Any, **parameters: Any) -> Any:
        """Send a request about items, whose answer can be recognised."""
        parameters["ReturnConsumedCapacity"] = "TOTAL"
        return self._request(operation, "ConsumedCapacity", *arguments, **parameters)

    def _request(
        self,
        operation: str,
        proof: str,
        accepted: str = "",
        is_read: bool = True,
        version: int | None = None,
        **parameters: Any,
    ) -> Any:
        """Return the answer, or None after a refusal whose code is in `accepted`.

        `proof`: a field that every answer has. A request that reads is sent once more if its
        connection broke.
        """
        until = monotonic() + self._timeout
        while True:
            wrote_nothing = may_repeat = is_refused = False
            try:
                answer = getattr(self._client(), operation)(TableName=self._table, **parameters)
                if proof in answer:
                    if self._is_silent:  # `capabilities` need not wait any longer
                        self._is_silent, self._last_ping = False, -RETRY_SECONDS
                    return answer
                why, may_repeat = "the answer was cut, or is not DynamoDB's", is_read
            except exceptions.ClientError as error:
                code = str(error.response["Error"].get("Code"))
                if code in accepted.split():
                    return None
                if code == _NO_TABLE:
                    raise self._unusable("there is no such table") from None
                # A number as code is a proxy's. After status 500 and more it may have written.
                status = error.response["ResponseMetadata"].get("HTTPStatusCode")
                is_refused = wrote_nothing = status == 400 and not code.isdigit()
                why = f"it refuses ({code})"
            except exceptions.ReadTimeoutError:
                why = f"no answer within {self._timeout} s"
            except (exceptions.HTTPClientError, exceptions.SSLError) as error:
                why, may_repeat = f"the connection broke ({type(error).__name__})", is_read
            except exceptions.BotoCoreError as error:
                why, wrote_nothing = f"no request was sent ({type(error).__name__})", True
            except Exception as error:  # of any library, about an answer that can't be parsed
                why = f"the answer is not DynamoDB's ({type(error).__name__})"
            self._is_silent = self._is_silent or not is_refused
            if may_repeat and monotonic() < until:
                until = 0.0  # once
            elif is_read or wrote_nothing:
                raise self._unavailable(why)
            else:
                why += "; it may or may not have written"
                raise OutcomeUnknown(f"dynamodb store {self._address}: {why}", version)

    def _unavailable(self, why: str) -> StorageUnavailable:
        return StorageUnavailable(f"dynamodb store {self._address}: {why}")

    def _unusable(self, why: str) -> StorageUnusable:
        remedy = "`sealedstate store init` creates it"
        return StorageUnusable(f"dynamodb store {self._address}: {why}; {remedy}")

    def _has_ttl(self) -> bool:
        proof = "TimeToLiveDescription"
        found = self._request("describe_time_to_live", proof)[proof]
        is_on = found.get("TimeToLiveStatus") in ("ENABLED", "ENABLING")
        return is_on and found.get("AttributeName") == "remove_at"

    def _client(self) -> Any:
        """Return the client of this process. The connections of a parent are not touched."""
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():  # no other thread of the child was first
                    self._opened = self._open_client()
                    self._pid = os.getpid()
        return self._opened

    def _open_client(self) -> Any:
        config = Config(
            connect_timeout=self._timeout,
            read_timeout=self._timeout,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            parameter_validation=False,
        )
        try:
            with _sessions_lock:
                parameters = dict(self._parameters)
                session = _session(parameters.pop("profile", None), os.getpid())
                return session.create_client("dynamodb", config=config, **parameters)
        except (exceptions.BotoCoreError, ValueError) as error:
            raise ConfigurationError(
                f"storage: botocore cannot open DynamoDB ({type(error).__name__}); check region,"
                " endpoint_url and profile"
            ) from None


# A session takes 50 ms to load, and is not safe for threads. A child of a fork needs another,
# because a thread of its parent may have held a lock of the session.
_sessions_lock = ForkSafeLock()


@functools.lru_cache(maxsize=8)
def _session(profile: str | None, pid: int) -> Any:
    return botocore.session.Session(profile=profile)


def _parse_url(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL's table and parameters. Raises ConfigurationError, which does not quote it."""
    table, _, query = url.removeprefix("dynamodb:").partition("?")
    pairs = urllib.parse.parse_qsl(query, keep_blank_values=True)
    parameters = {_PARAMETERS.get(name, ""): value for name, value in pairs}
    if not re.fullmatch(r"[A-Za-z0-9_.-]{3,255}", table) or "" in parameters:
        known = ", ".join(_PARAMETERS)
        raise ConfigurationError(
            f"storage: expected dynamodb:TABLE?region=REGION; it takes {known}"
        )
    if "@" in parameters.get("endpoint_url", ""):
        raise ConfigurationError("storage: an endpoint_url has no user and no password")
    return table, parameters


# --- fields of items ------------------------------------------------------------------------------


def _place(context: str, key: str) -> dict[str, Any]:
    digest = key_digest(context, key)
    return {"context_place": {"B": context_digest(context)}, "entry_place": {"B": b"r" + digest}}


def _member_place(context: str, key: str, member: str) -> dict[str, Any]:
    digest = hashlib.blake2b(utf8(member), digest_size=32).digest()
    return _place(context, key) | {"entry_place": {"B": b"i" + key_digest(context, key) + digest}}


def _place_of(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item.get(name) for name in _PLACES}


def _record(
    context: str, key: str, value: bytes, expires_at: int | None, version: int
) -> dict[str, Any]:
    fields = {"full_name": {"B": utf8(key)}, "entry_value": {"B": bytes(value)}}
    number = {"entry_version": {"N": str(version)}}
    return _place(context, key) | fields | number | _expiry_fields(expires_at)


def _expiry_fields(expires_at: int | None) -> dict[str, Any]:
    if expires_at is None:
        return {}
    remove_at = (expires_at + REAP_AFTER) // 1000 + 1
    return {"expires_at": {"N": str(expires_at)}, "remove_at": {"N": str(remove_at)}}


def _field(item: Mapping[str, Any], name: str) -> Any:
    """Return a field: bytes, or a whole number. Raises StorageUnavailable if there is none."""
    match item.get(name):
        case {"B": bytes(value)}:
            return value
        case {"N": str(number)} if number.isdigit():
            return int(number)
    raise StorageUnavailable(f"dynamodb store: an item has no {name}, so it is not sealedstate's")


def _expiry(item: Mapping[str, Any]) -> int | None:
    return _field(item, "expires_at") if "expires_at" in item else None


# --- capabilities by the table's settings ---------------------------------------------------------


def capabilities_by(table: Mapping[str, Any], has_ttl: bool, host: str) -> Capabilities:
    """Return the capabilities of a table by its description, its TTL and the host of its server."""
    is_aws = re.fullmatch(r".+\.(amazonaws\.com(\.cn)?|api\.aws)", host) is not None
    why = "assumed, because AWS says so and an emulator cannot show it"
    if not is_aws:
        why = f"{host} is not AWS, and sealedstate does not know how it keeps its items"
    reasons = {"durable": why, "survives_restart": why, "native_expiry": "TTL removes by remove_at"}
    if not has_ttl:
        reasons["native_expiry"] = "TTL does not remove by remove_at; run `sealedstate store init`"
    is_stale = bool(table.get("Replicas")) and table.get("MultiRegionConsistency") != "STRONG"
    if is_stale:
        reasons["staleness"] = "it has replicas in other regions, and is not strongly consistent"
    return replace(
        _UNKNOWN,
        assumed=False,
        durable=is_aws,
        survives_restart=is_aws,
        native_expiry=has_ttl,
        staleness=REPLICA_STALENESS if is_stale else 0,
        reasons=reasons,
        advice=() if has_ttl else ("run `sealedstate store init`, which enables TTL",),
    )

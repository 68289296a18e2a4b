"""The DynamoDB store against an emulator, and against scripted answers; the kit.

With DYNAMODB_TEST_URL, such as ``dynamodb:TABLE?region=REGION``, the kit runs on that table, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier, Thread
from typing import Any, ClassVar

import pytest

from sealedstate.errors import (
    ConfigurationError,
    OutcomeUnknown,
    StorageError,
    StorageUnavailable,
    StorageUnusable,
)
from sealedstate.storage import ManagedStorage, Storage, open_storage
from sealedstate.storage.contract import REAP_AFTER, Clock
from sealedstate.storage.dynamodb import DynamoDBStorage, capabilities_by
from sealedstate.storage.requirements import DECLARED, StorageCheck, store_name
from sealedstate.testing import StorageContract
from sealedstate.testing._races import LostReplies, Outages
from sealedstate.testing._suite import eventually
from sealedstate.testing._workers import run_in_threads
from tests.support.backends import BehindProxy
from tests.support.kv_promises import HANG, PATIENT, SHORT, KeyValuePromises
from tests.support.kv_servers import KeyValueServer
from tests.support.racers import losing_replies, play

RACERS, ROUNDS = 6, 50


@pytest.fixture
def server(plain_dynamodb: KeyValueServer) -> Iterator[KeyValueServer]:
    plain_dynamodb.ensure_running()
    with opened(plain_dynamodb.url) as store:
        store.prepare()
    yield plain_dynamodb
    plain_dynamodb.ensure_running()


@contextlib.contextmanager
def opened(url: str, clock: Clock = time.time) -> Iterator[DynamoDBStorage]:
    with contextlib.closing(DynamoDBStorage(url, clock, timeout=PATIENT)) as store:
        yield store


class TestPromises(KeyValuePromises):
    replies_before: ClassVar = {"delete_context": 1}
    # urllib3 decides once in a process how it waits.
    test_store_works_without_poll = None  # type: ignore[assignment]
    # botocore leaves the intervals to the system.
    keepalive_idle: ClassVar = None

    @pytest.fixture
    def own_server(self, server: KeyValueServer) -> KeyValueServer:
        with opened(server.url) as store:
            store.delete_context("c")
        return server

    def open(self, url: str, clock: Clock = time.time, timeout: float = PATIENT) -> ManagedStorage:
        return DynamoDBStorage(url, clock, timeout=timeout)

    @contextlib.contextmanager
    def proxied(self, server: KeyValueServer, timeout: float = PATIENT) -> Iterator[Any]:
        with super().proxied(server, timeout) as (proxy, store):
            self.proxy = proxy
            yield proxy, store

    def count_writes(self, server: KeyValueServer) -> int:
        # The emulator counts nothing, but a write that is repeated loses another reply.
        return self.proxy.dropped

    @pytest.mark.slow
    def test_frozen_server_blocks_no_call(self, server: KeyValueServer) -> None:
        with opened(server.url) as patient:
            patient.delete_context("c")
            assert patient.create("c", "k", b"v", None, 1)
        store = DynamoDBStorage(server.url, time.time, timeout=SHORT)
        eventually(store.ping)
        server.pause()
        began = time.monotonic()
        # Over the connection that there is, and over a new one, which has no handshake.
        for version in (8, 9):
            with pytest.raises(OutcomeUnknown) as caught:
                store.update("c", "k", b"w", None, version)
            assert caught.value.version == version
        with pytest.raises(StorageUnavailable, match=r"within 0\.5 s"):
            store.read("c", "k")
        assert time.monotonic() - began < HANG
        server.resume()
        assert eventually(store.read, "c", "other") is None
        store.close()


# --- races --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_lossy", [False, True], ids=["", "lost replies"])
def test_one_of_concurrent_creates_wins(server: KeyValueServer, is_lossy: bool) -> None:
    def race(racer: int, barrier: Barrier) -> list[bool | None]:
        attempts = (partial(store.create, "race", str(number)) for number in range(ROUNDS))
        return [play(barrier, attempt, b"v", None, 1 + racer) for attempt in attempts]

    promises = TestPromises()
    with promises.proxied(server) as (proxy, store), contextlib.ExitStack() as stack:
        store.delete_context("race")
        if is_lossy:
            stack.enter_context(losing_replies(proxy))
        found = list(zip(*run_in_threads(RACERS, race), strict=True))
    assert len(found) == ROUNDS
    for answers in found:
        assert answers.count(True) == 1 or (is_lossy and True not in answers and None in answers)


# --- items and pages ------------------------------------------------------------------------------


def test_listing_continues_over_pages(server: KeyValueServer) -> None:
    with opened(server.url) as store:  # a page has 1 MB
        store.delete_context("pages")
        for number in range(4):
            assert store.create("pages", str(number), bytes(390_000), None, 1)
        assert sorted(store.keys("pages")) == ["0", "1", "2", "3"]
        store.delete_context("pages")
        assert list(store.keys("pages")) == []


def test_items_say_when_they_can_be_removed(server: KeyValueServer) -> None:
    with opened(server.url) as store:
        store.delete_context("c")
        expires_at = 1_999_999_999_999
        store.create("c", "k", b"v", expires_at, 1)
        store.add_member("c", "k", "m", expires_at)
        items = [item for kind in (b"r", b"i") for item in store._items("c", kind)]
        assert len(items) == 2
        found = [raw_item(store, item)["remove_at"] for item in items]
        for seconds in found:
            assert 0 < int(seconds["N"]) * 1000 - (expires_at + REAP_AFTER) <= 1000
        assert store.update_expiration("c", "k", None)
        assert raw_item(store, items[0]).keys().isdisjoint({"remove_at", "expires_at"})


def raw_item(store: DynamoDBStorage, item: Mapping[str, Any]) -> dict[str, Any]:
    place = {name: item[name] for name in ("context_place", "entry_place")}
    found: dict[str, Any] = store._ask("get_item", Key=place)["Item"]
    return found


# --- the table ------------------------------------------------------------------------------------


def test_missing_table_stops_the_start_until_it_is_created(server: KeyValueServer) -> None:
    url = server.url.replace("dynamodb:sealedstate", f"dynamodb:new-{os.urandom(8).hex()}")
    with opened(url) as store:
        with pytest.raises(StorageUnusable, match="no such table; `sealedstate store init"):
            StorageCheck(store, ["revocation"], ["revocation"]).check()
        with pytest.raises(StorageUnusable):
            store.create("c", "k", b"v", None, 1)
        assert store.capabilities.assumed
        run_in_threads(4, lambda *_: store.prepare())
        assert store.create("c", "k", b"v", None, 1)
        StorageCheck(store, ["revocation"], ["revocation"]).check()


def test_emulator_is_not_taken_for_aws(server: KeyValueServer) -> None:
    with opened(server.url) as store:
        store.ping()
        can = store.capabilities
        assert (can.durable, can.survives_restart, can.native_expiry) == (False, False, False)
        assert "is not AWS" in can.reasons["durable"]
        assert "sealedstate store init" in can.reasons["native_expiry"]
        assert str(server.port) in repr(store)


# --- scripted answers -----------------------------------------------------------------------------

Answer = tuple[int, bytes]
SPENT = {"ConsumedCapacity": {"TableName": "sealedstate"}}
KEY = [("context_place", "HASH"), ("entry_place", "RANGE")]


def ok(**fields: Any) -> Answer:
    return 200, json.dumps(fields).encode()


def refusal(code: str, status: int = 400) -> Answer:
    return status, json.dumps({"__type": f"com.amazonaws#{code}", "message": "canary"}).encode()


def table(key: list[tuple[str, str]] = KEY, kind: str = "B", **fields: Any) -> Answer:
    schema = [{"AttributeName": name, "KeyType": role} for name, role in key]
    kinds = [{"AttributeName": name, "AttributeType": kind} for name, _ in key]
    described = {"KeySchema": schema, "AttributeDefinitions": kinds, "TableStatus": "ACTIVE"}
    return ok(Table=described | fields)


def ttl(status: str, attribute: str = "remove_at") -> Answer:
    return ok(TimeToLiveDescription={"TimeToLiveStatus": status, "AttributeName": attribute})


class Scripted:
    """Answers each operation by its list, whose last answer stays; notes what was asked."""

    def __init__(self, **answers: list[Answer]) -> None:
        self.asked: list[tuple[str, Any]] = []
        self._answers = {"GetItem": [ok(**SPENT)], **answers}

    def answer(self, operation: str, body: bytes) -> Answer:
        self.asked.append((operation, json.loads(body)))
        answers = self._answers[operation]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    @contextlib.contextmanager
    def store(self) -> Iterator[DynamoDBStorage]:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, reply = answer(self.headers["X-Amz-Target"].split(".")[1], body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            url = "dynamodb:sealedstate?region=eu-central-1&endpoint_url=http://127.0.0.1"
            try:
                with opened(f"{url}:{server.server_port}") as store:
                    yield store
            finally:
                server.shutdown()
                thread.join()


# Answers that prove that nothing was written, and others after which it may have been.
CERTAIN = [
    refusal("ProvisionedThroughputExceededException"),
    refusal("ThrottlingException"),
    refusal("RequestLimitExceeded"),
    refusal("AccessDeniedException"),
    refusal("ExpiredTokenException"),
    refusal("ValidationException"),
]
UNCERTAIN = [
    *(refusal("InternalServerError", 500), refusal("ServiceUnavailable", 503)),
    *((502, b"<html>Bad Gateway</html>"), (400, b"<html>Bad Request</html>")),
    *((200, b""), (200, b"<html>"), (200, b"{}"), (200, b"[]"), (200, b"\xff"), (200, b"null")),
    *((200, b'{"ConsumedCapacity": {"Ta'), (302, b"")),
]


@pytest.mark.parametrize("answer", [*CERTAIN, *UNCERTAIN], ids=lambda answer: str(answer)[:60])
def test_answer_that_is_no_answer_is_neither_absence_nor_success(answer: Answer) -> None:
    operations = ("GetItem", "Query", "PutItem", "DeleteItem", "DescribeTable")
    scripted = Scripted(**{operation: [answer] for operation in operations})
    with scripted.store() as store:
        reads: list[Callable[[], object]] = [
            lambda: store.read("c", "k"),
            lambda: store.keys("c"),
            lambda: store.members("c", "k"),
            store.ping,
        ]
        for read in reads:
            with pytest.raises(StorageUnavailable) as caught:
                read()
            assert "canary" not in str(caught.value)
        for operation, body in scripted.asked:
            assert body.get("ConsistentRead") or operation == "DescribeTable"
        writes: list[Callable[[], object]] = [
            lambda: store.create("c", "k", b"v", None, 7),
            lambda: store.delete("c", "k"),
            lambda: store.add_member("c", "k", "m", None),
        ]
        scripted.asked.clear()
        for write in writes:
            with pytest.raises(StorageError) as caught_write:
                write()
            kind = StorageUnavailable if answer in CERTAIN else OutcomeUnknown
            assert type(caught_write.value) is kind
        assert len(scripted.asked) == len(writes), "a write was repeated"


def test_item_of_another_place_is_not_believed() -> None:
    place = {"context_place": {"B": "AAAA"}, "entry_place": {"B": "AAAA"}}
    item = place | {"entry_value": {"B": "AAAA"}, "entry_version": {"N": "1"}}
    answers = [ok(Item=item, **SPENT)]
    with Scripted(GetItem=answers, Query=[ok(Items=[item], **SPENT)]).store() as store:
        with pytest.raises(StorageUnavailable, match="another item"):
            store.read("c", "k")
        with pytest.raises(StorageUnavailable, match="other items"):
            store.keys("c")


@pytest.mark.parametrize(
    "description",
    [table(KEY[::-1]), table(KEY[:1]), table([("id", "HASH")]), table(kind="S")],
    ids=["another order", "no sort key", "another name", "text"],
)
def test_table_with_another_key_stops_the_start(description: Answer) -> None:
    scripted = Scripted(DescribeTable=[description])
    with scripted.store() as store, pytest.raises(StorageUnusable, match="another key"):
        StorageCheck(store, ["spilling"], ["spilling"]).check()


@pytest.mark.parametrize("status", ["DISABLED", "DISABLING", "ENABLED on another attribute"])
def test_ttl_that_is_off_is_reported_and_enabled_by_prepare(status: str) -> None:
    off = ttl("ENABLED", "other") if "another" in status else ttl(status)
    scripted = Scripted(
        DescribeTable=[table()],
        DescribeTimeToLive=[off, off, ttl("ENABLING")],
        UpdateTimeToLive=[ok(TimeToLiveSpecification={})],
    )
    with scripted.store() as store:
        store.ping()
        assert not store.capabilities.native_expiry
        assert "TTL does not remove" in store.capabilities.reasons["native_expiry"]
        store.prepare()
        assert store.capabilities.native_expiry
        assert store.reap(10) == 0
    (asked,) = [body for operation, body in scripted.asked if operation == "UpdateTimeToLive"]
    assert asked["TimeToLiveSpecification"] == {"AttributeName": "remove_at", "Enabled": True}


def test_prepare_creates_a_table_that_is_billed_on_demand() -> None:
    scripted = Scripted(
        DescribeTable=[
            refusal("ResourceNotFoundException"),
            table(TableStatus="CREATING"),
            table(),
        ],
        CreateTable=[ok(TableDescription={})],
        DescribeTimeToLive=[ttl("ENABLED")],
    )
    with scripted.store() as store:
        store.prepare()
    (asked,) = [body for operation, body in scripted.asked if operation == "CreateTable"]
    assert asked["BillingMode"] == "PAY_PER_REQUEST"
    assert [part["KeyType"] for part in asked["KeySchema"]] == ["HASH", "RANGE"]


def test_replicas_in_other_regions_are_stale_unless_they_are_strongly_consistent() -> None:
    replicas = [{"RegionName": "us-east-1"}]
    for consistency, is_stale in ((None, True), ("EVENTUAL", True), ("STRONG", False)):
        description = table(Replicas=replicas, MultiRegionConsistency=consistency)
        scripted = Scripted(DescribeTable=[description], DescribeTimeToLive=[ttl("ENABLED")])
        with scripted.store() as store:
            check = StorageCheck(store, ["revocation"], [])
            if is_stale:
                with pytest.raises(ConfigurationError, match="replicas in other regions"):
                    check.check()
            store.ping()
            assert bool(store.capabilities.staleness) is is_stale


def test_table_of_aws_is_what_the_matrix_declares() -> None:
    store = DynamoDBStorage("dynamodb:sealedstate?region=eu-west-1", time.time)
    assert repr(store) == "<DynamoDBStorage sealedstate at dynamodb.eu-west-1.amazonaws.com>"
    hosts = ["dynamodb.eu-west-1.amazonaws.com", "dynamodb.cn-north-1.amazonaws.com.cn"]
    for host in [*hosts, "vpce-1.dynamodb.eu-west-1.vpce.amazonaws.com"]:
        can, declared = capabilities_by({}, True, host), DECLARED["dynamodb"]
        assert "assumed" in can.reasons["durable"]
        for name in ("shared", "durable", "survives_restart", "evicts", "enumerable", "contexts"):
            assert getattr(can, name) == getattr(declared, name), name
        assert can.native_expiry == declared.native_expiry
        assert (can.assumed, can.staleness) == (False, 0)
    for host in ("127.0.0.1:8000", "amazonaws.com.example", "dynamodb.evil-amazonaws.com:1"):
        assert not capabilities_by({}, True, host).durable


# --- URLs -----------------------------------------------------------------------------------------

REFUSED = [
    *("dynamodb:", "dynamodb:ab", "dynamodb://sealedstate", "dynamodb:canary table?region=r"),
    *(f"dynamodb:sealedstate?{query}" for query in ("canary", "canary=1", "region=r&canary=1")),
    "dynamodb:sealedstate?region=can%20ary",
    "dynamodb:sealedstate?region=r&profile=canary",
    *(
        f"dynamodb:sealedstate?region=r&endpoint_url={url}"
        for url in ("http://user:canary@127.0.0.1", "https://canary@127.0.0.1:1", "canary", "h://")
    ),
]


@pytest.mark.parametrize("url", REFUSED)
def test_wrong_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_storage(url, time.time)
    assert str(caught.value).startswith("storage: ")
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_region_may_be_botocores_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    url = "dynamodb:sealedstate?sealedstate_timeout=0.3"
    with contextlib.closing(open_storage(url, time.time)) as store:
        assert "dynamodb.eu-west-1.amazonaws.com" in repr(store)
        assert store_name(store) == "dynamodb"


# --- the kit --------------------------------------------------------------------------------------


class TestDynamoDB(StorageContract):
    @pytest.fixture(autouse=True)
    def _place(self, plain_dynamodb: KeyValueServer) -> None:
        plain_dynamodb.ensure_running()
        self.url = plain_dynamodb.url

    def open_store(self, clock: Clock) -> Storage:
        return DynamoDBStorage(self.url, clock, timeout=PATIENT)


class TestDynamoDBOutages(BehindProxy, Outages, LostReplies):
    @pytest.fixture(autouse=True)
    def _place(self, plain_dynamodb: KeyValueServer) -> Iterator[None]:
        plain_dynamodb.ensure_running()
        with self.proxy_of(plain_dynamodb.port) as port:
            self.url = plain_dynamodb.url.replace(f":{plain_dynamodb.port}", f":{port}")
            yield

    def open_store(self, clock: Clock) -> Storage:
        return DynamoDBStorage(self.url, clock, timeout=PATIENT)


if url := os.environ.get("DYNAMODB_TEST_URL"):

    class TestConfiguredDynamoDB(StorageContract):
        """On a table of AWS, or of another product with this interface."""

        def open_store(self, clock: Clock) -> Storage:
            store = open_storage(os.environ["DYNAMODB_TEST_URL"], clock)
            assert isinstance(store, DynamoDBStorage)
            return store

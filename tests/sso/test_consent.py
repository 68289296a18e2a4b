"""What users agreed to: looked up, listed, withdrawn, merged, and kept longer than any key."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealedstate import ConfigurationError, Keyring, Settings
from sealedstate._wire import cbor as codec
from sealedstate.errors import CapacityError, NoPrimaryKey, StorageUnavailable, UnsupportedValue
from sealedstate.key_sources import StaticKeys
from sealedstate.rotation.ring import Ring, Schedule
from sealedstate.rotation.transitions import create_ring, rotate
from sealedstate.sso import Consent, ConsentStore
from sealedstate.sso.consent import CONTEXT
from sealedstate.storage import MemoryStorage, Storage
from tests.support.jar import Clock
from tests.support.login_makers import OTHER_SP, SP
from tests.support.rings import DAY, randomness
from tests.support.services import LOOKUP, ON_SERVERS, RING, Unanswering, deployment, opened, rows
from tests.support.sql_servers import postgresql_server

__all__ = ["postgresql_server"]

NOW = 1_800_000_000
YEAR = 365 * DAY
ANN, BOB = "ann", "bob"


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture(params=["memory", "sqlite", *ON_SERVERS])
def storage(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Storage]:
    with opened(request.param, request, tmp_path, clock) as store:
        yield store


def store(storage: Any, ring: Keyring = RING, realm: str = "default") -> ConsentStore:
    return ConsentStore(deployment(storage, ring, realm))


def in_memory() -> ConsentStore:
    return store(MemoryStorage(Clock(NOW)))


def documents(consents: ConsentStore, subject: str = ANN, now: float = NOW) -> dict[str, int]:
    return {one.document: one.version for one in consents.of_subject(subject, now)}


# --- on every store -----------------------------------------------------------------------------


def test_a_version_is_accepted_by_that_subject_and_no_newer_one_is(storage: Storage) -> None:
    node, other_node = store(storage), store(storage)
    assert not node.has_accepted(ANN, "terms", 1, NOW)
    node.record(ANN, "terms", 2, NOW)
    accepted = [other_node.has_accepted(ANN, "terms", version, NOW) for version in (1, 2, 3)]
    assert accepted == [True, True, False]
    assert not node.has_accepted(BOB, "terms", 1, NOW)
    assert not node.has_accepted(ANN, "privacy", 1, NOW)
    assert not store(storage, realm="another").has_accepted(ANN, "terms", 1, NOW)


def test_what_a_service_may_get_is_agreed_to_service_by_service(storage: Storage) -> None:
    consents = store(storage)
    consents.record(ANN, "attributes", 1, NOW, service=SP, attributes=["mail", "name"])

    def may(service: str | None, *attributes: str) -> bool:
        return consents.has_accepted(ANN, "attributes", 1, NOW, service, attributes)

    assert may(SP)
    assert may(SP, "mail")
    assert may(SP, "mail", "name")
    assert not may(SP, "mail", "birthday")
    assert not may(OTHER_SP, "mail")
    assert not may(None, "mail")
    consents.record(ANN, "attributes", 1, NOW + 1, service=SP, attributes=["mail"])
    assert not may(SP, "mail", "name")


def test_all_that_a_subject_agreed_to_is_listed_and_withdrawn_one_by_one_or_at_once(
    storage: Storage,
) -> None:
    consents = store(storage)
    consents.record(ANN, "terms", 3, NOW, expires_at=NOW + YEAR)
    consents.record(ANN, "attributes", 1, NOW, service=SP, attributes=["mail"])
    consents.record(ANN, "attributes", 1, NOW, service=OTHER_SP)
    consents.record(BOB, "terms", 1, NOW)
    assert consents.of_subject(ANN, NOW) == (
        Consent("attributes", 1, NOW, None, SP, frozenset({"mail"})),
        Consent("attributes", 1, NOW, None, OTHER_SP),
        Consent("terms", 3, NOW, NOW + YEAR),
    )
    consents.withdraw(ANN, "attributes", NOW, SP)
    consents.withdraw(ANN, "attributes", NOW, "https://never.example.org")
    assert [one.service for one in consents.of_subject(ANN, NOW)] == [OTHER_SP, None]
    consents.withdraw_all(ANN, NOW)
    consents.withdraw_all(ANN, NOW)
    assert consents.of_subject(ANN, NOW) == ()
    assert len(rows(storage, CONTEXT)) == 1
    assert documents(consents, BOB) == {"terms": 1}


def test_what_expires_counts_until_then_and_what_does_not_counts_for_ever(
    storage: Storage, clock: Clock
) -> None:
    consents = store(storage)
    consents.record(ANN, "terms", 1, NOW, expires_at=NOW + DAY)
    consents.record(BOB, "terms", 1, NOW, expires_at=NOW + DAY)
    consents.record(BOB, "privacy", 1, NOW)
    clock.now = NOW + DAY - 1
    assert consents.has_accepted(ANN, "terms", 1, clock.now)
    clock.now = NOW + DAY
    assert not consents.has_accepted(ANN, "terms", 1, clock.now)
    assert documents(consents, BOB, clock.now) == {"privacy": 1}
    assert len(rows(storage, CONTEXT)) == 1  # hers is gone by itself
    clock.now = NOW + 50 * YEAR
    assert consents.has_accepted(BOB, "privacy", 1, clock.now)


def test_nothing_that_stands_in_the_store_tells_who_agreed_to_what(storage: Storage) -> None:
    store(storage).record("ann.example", "terms-of-use", 1, NOW, service=SP)
    ((key, stored),) = rows(storage, CONTEXT).items()
    shown = key.encode() + stored.value
    assert not [word for word in (b"ann", b"terms", SP.encode()) if word in shown]


def test_of_changes_at_once_none_is_lost(storage: Storage) -> None:
    problems: list[BaseException] = []
    start = threading.Barrier(4)

    def change(number: int) -> None:
        consents = store(storage)
        try:
            start.wait(30)
            for turn in range(5):
                consents.record(ANN, f"document {number}", turn + 1, NOW)
                consents.record(ANN, f"passing {number}", 1, NOW)
                consents.withdraw(ANN, f"passing {number}", NOW)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A busy server may answer too late, and then says so.
    assert [error for error in problems if not isinstance(error, StorageUnavailable)] == []
    if not problems:
        assert documents(store(storage)) == {f"document {number}": 5 for number in range(4)}


# --- which counts -------------------------------------------------------------------------------


def test_an_older_version_does_not_replace_a_newer_one_that_counts() -> None:
    consents = in_memory()
    consents.record(ANN, "terms", 3, NOW)
    consents.record(ANN, "terms", 2, NOW + 1)
    assert documents(consents) == {"terms": 3}
    consents.record(ANN, "terms", 3, NOW, expires_at=NOW + 10)
    consents.record(ANN, "terms", 2, NOW + 10)
    assert documents(consents, now=NOW + 10) == {"terms": 2}


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
FOR_ONE = st.tuples(NAMES, st.integers(1, 3), NAMES, st.frozensets(NAMES, max_size=3))
FOR_ALL = st.tuples(NAMES, st.integers(1, 3), st.none(), st.just(frozenset[str]()))
GIVEN = FOR_ONE | FOR_ALL
CHANGES = st.lists(st.tuples(st.booleans(), st.sampled_from([ANN, BOB, "\0", "é"]), GIVEN))


@settings(max_examples=40)
@given(CHANGES)
def test_any_changes_leave_what_a_dict_would_hold(changes: list[Any]) -> None:
    consents, model = in_memory(), dict[Any, Any]()
    for withdrawn, subject, (document, version, service, attributes) in changes:
        place = (subject, document, service)
        if withdrawn:
            consents.withdraw(subject, document, NOW, service)
            model.pop(place, None)
        else:
            consents.record(subject, document, version, NOW, service=service, attributes=attributes)
            if version >= model.get(place, (0,))[0]:
                model[place] = (version, attributes)
    for (subject, document, service), (version, attributes) in model.items():
        assert consents.has_accepted(subject, document, version, NOW, service, attributes)
        assert not consents.has_accepted(subject, document, version + 1, NOW, service)
    for subject in (ANN, BOB):
        found = {(subject, *one.about): one for one in consents.of_subject(subject, NOW)}
        assert set(found) == {place for place in model if place[0] == subject}


# --- odd input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "version", "expires_at"),
    [
        ("", 1, None),
        ("terms", 0, None),
        ("terms", 1 << 63, None),
        ("terms", 1, NOW),
        ("terms", 1, 1 << 60),
    ],
)
def test_what_can_not_be_agreed_to_is_a_mistake_of_the_caller(
    document: str, version: int, expires_at: int | None
) -> None:
    consents = in_memory()
    with pytest.raises(ConfigurationError):
        consents.record(ANN, document, version, NOW, expires_at)
    assert consents.of_subject(ANN, NOW) == ()


def test_text_that_is_none_is_refused_and_was_never_agreed_to() -> None:
    consents = in_memory()
    for names in ({"service": "\ud800"}, {"attributes": ["\udfff"]}):
        with pytest.raises(UnsupportedValue):
            consents.record(ANN, "terms", 1, NOW, **names)
    with pytest.raises(UnsupportedValue):
        consents.record("\ud800", "terms", 1, NOW)
    assert not consents.has_accepted(ANN, "\ud800", 1, NOW)
    assert not consents.has_accepted(ANN, "terms", 1, NOW, "\ud800", ["\udfff"])


@pytest.mark.parametrize(
    "values",
    [
        {"document": 5},
        {"document": None},
        {"version": 1.5},
        {"version": True},
        {"version": "1"},
        {"expires_at": NOW + 10.5},
        {"expires_at": "tomorrow"},
        {"service": 5},
        {"service": b"https://wiki.example.org"},
        {"service": SP, "attributes": "mail"},
        {"service": SP, "attributes": b"mail"},
        {"service": SP, "attributes": None},
        {"service": SP, "attributes": [1, 2]},
        {"service": SP, "attributes": [["mail"]]},
    ],
)
def test_values_of_other_types_are_refused_and_lock_nobody_out(values: dict[str, Any]) -> None:
    consents = in_memory()
    usual: dict[str, Any] = {"subject": ANN, "document": "terms", "version": 1, "now": NOW}
    with pytest.raises(UnsupportedValue):
        consents.record(**usual | values)
    assert consents.of_subject(ANN, NOW) == ()
    consents.record(ANN, "terms", 1, NOW, service="s")
    assert consents.has_accepted(ANN, "terms", 1, NOW, "s")


def test_attributes_belong_to_a_service() -> None:
    consents = in_memory()
    with pytest.raises(ConfigurationError, match="service"):
        consents.record(ANN, "terms", 1, NOW, attributes=["mail"])
    assert consents.of_subject(ANN, NOW) == ()


def test_a_question_that_could_only_be_answered_wrongly_is_refused() -> None:
    consents = in_memory()
    consents.record(ANN, "attributes", 1, NOW, service=SP, attributes=["mail"])
    one_text: Any = "mail"
    no_number: Any = "1"
    with pytest.raises(UnsupportedValue):
        consents.has_accepted(ANN, "attributes", 1, NOW, SP, one_text)
    with pytest.raises(UnsupportedValue):
        consents.has_accepted(ANN, "attributes", no_number, NOW, SP)


MIXED: list[Any] = [
    ["terms", 1, NOW, None, 5, []],
    [7, 1, NOW, None, None, []],
    ["old", 1.5, NOW, None, None, []],
    ["older", True, NOW, None, None, []],
    ["oldest", 1, NOW, NOW + 10.5, None, []],
    ["numbers", 1, NOW, None, SP, [1, 2]],
    ["everywhere", 2, NOW, None, None, ["mail"]],
    ["terms", 3, NOW, None, SP, ["mail"]],
]


def test_a_row_that_holds_values_of_other_types_keeps_the_others_and_takes_more() -> None:
    storage = MemoryStorage(Clock(NOW))
    at, consents = deployment(storage), store(storage)
    consents.record(ANN, "terms", 1, NOW)
    ((key, stored),) = rows(storage, CONTEXT).items()
    newer = stored.version + 1
    value = at.rows.seal_row(CONTEXT, key, newer, codec.encode(MIXED, "consents"), RING, NOW)
    storage.update(CONTEXT, key, value, None, newer)
    assert documents(consents) == {"everywhere": 2, "terms": 3}
    assert consents.has_accepted(ANN, "everywhere", 2, NOW, None, ["mail"])
    consents.record(ANN, "terms", 1, NOW, service="s")
    assert consents.has_accepted(ANN, "terms", 1, NOW, "s")
    assert consents.has_accepted(ANN, "terms", 3, NOW, SP, ["mail"])


def test_long_names_and_many_services_are_kept_until_the_row_is_full_and_none_is_lost() -> None:
    consents, long = in_memory(), "x" * 10_000
    for number in range(90):
        consents.record(ANN, "attributes", 1, NOW, service=f"{number}{long}")
    with pytest.raises((CapacityError, UnsupportedValue)):
        consents.record(ANN, "attributes", 1, NOW, service=long * 20)
    assert len(consents.of_subject(ANN, NOW)) == 90
    assert consents.has_accepted(ANN, "attributes", 1, NOW, f"7{long}")


# --- bad days -----------------------------------------------------------------------------------


def test_an_outage_is_no_answer() -> None:
    faulty = Unanswering(MemoryStorage(Clock(NOW)))
    consents = store(faulty)
    consents.record(ANN, "terms", 1, NOW)
    faulty.down = {"read"}
    for act in (
        lambda: consents.has_accepted(ANN, "terms", 1, NOW),
        lambda: consents.of_subject(ANN, NOW),
        lambda: consents.record(ANN, "terms", 2, NOW),
        lambda: consents.withdraw_all(ANN, NOW),
    ):
        with pytest.raises(StorageUnavailable):
            act()
    faulty.down.clear()
    assert documents(consents) == {"terms": 1}


@pytest.mark.parametrize("fault", ["lost", "late"])
@pytest.mark.parametrize("operation", ["create", "update", "delete"])
def test_changes_are_made_though_replies_get_lost(fault: str, operation: str) -> None:
    faulty = Unanswering(MemoryStorage(Clock(NOW)))
    consents = store(faulty)
    getattr(faulty, fault)[operation] = 2
    consents.record(ANN, "terms", 1, NOW)
    consents.record(ANN, "terms", 2, NOW)
    faulty.arrive()
    assert documents(consents) == {"terms": 2}
    consents.withdraw(ANN, "terms", NOW)
    faulty.arrive()
    assert documents(consents) == {}


def test_a_row_that_was_tampered_with_means_that_nothing_was_agreed_to() -> None:
    storage = MemoryStorage(Clock(NOW))
    consents = store(storage)
    consents.record(ANN, "terms", 1, NOW)
    ((key, stored),) = rows(storage, CONTEXT).items()
    storage.update(CONTEXT, key, stored.value[:-1] + b"!", None, stored.version + 1)
    assert not consents.has_accepted(ANN, "terms", 1, NOW)
    consents.record(ANN, "terms", 1, NOW)
    assert consents.has_accepted(ANN, "terms", 1, NOW)


@pytest.mark.parametrize(
    "content", [b"\x80", b"\x81\x80", b"\x01", b"\x81\x87" + b"\x01" * 7, b"\xff"]
)
def test_a_row_that_a_newer_release_wrote_is_left_alone(content: bytes) -> None:
    storage = MemoryStorage(Clock(NOW))
    at, consents = deployment(storage), store(storage)
    consents.record(ANN, "terms", 1, NOW)
    ((key, stored),) = rows(storage, CONTEXT).items()
    newer = stored.version + 1
    value = at.rows.seal_row(CONTEXT, key, newer, content, RING, NOW)
    storage.update(CONTEXT, key, value, None, newer)
    if content == b"\x80":  # a list of none
        assert consents.of_subject(ANN, NOW) == ()
        return
    for act in (
        lambda: consents.of_subject(ANN, NOW),
        lambda: consents.record(ANN, "terms", 2, NOW),
    ):
        with pytest.raises(StorageUnavailable, match="unreadable here"):
            act()
    assert rows(storage, CONTEXT)[key].version == newer


# --- longer than any key ------------------------------------------------------------------------

DAILY = Schedule(DAY, 900, DAY, 60)


def a_ring() -> Ring:
    return create_ring(DAILY, NOW, randomness("consents"))


def test_what_was_agreed_to_outlives_every_key_that_seals_sessions(storage: Storage) -> None:
    ring = a_ring()
    store(storage, ring.keyring()).record(ANN, "terms", 1, NOW)
    first, now = ring.keys[0].kid, NOW
    for _ in range(30):
        now += DAY
        ring = rotate(ring, DAILY, now, randomness(str(now)))
    assert ring.find(first) is None
    consents = store(storage, ring.keyring())
    assert consents.has_accepted(ANN, "terms", 1, now)
    consents.record(ANN, "privacy", 1, now)
    assert documents(consents, now=now) == {"terms": 1, "privacy": 1}


def test_a_ring_without_a_key_for_years_records_nothing_rather_than_what_would_be_lost() -> None:
    storage = MemoryStorage(Clock(NOW))
    bare = Keyring(RING.keys, lookup=LOOKUP, lasting_keys=())
    with pytest.raises(NoPrimaryKey, match="rotate --lasting"):
        store(storage, bare).record(ANN, "terms", 1, NOW)
    assert rows(storage, CONTEXT) == {}


def test_a_node_that_lacks_the_key_answers_nothing_and_loses_nothing() -> None:
    storage = MemoryStorage(Clock(NOW))
    ours, another = a_ring().keyring(), create_ring(DAILY, NOW, randomness("another")).keyring()
    store(storage, ours).record(ANN, "terms", 1, NOW)
    behind = store(storage, Keyring(another.keys, lookup=ours.lookup, lasting_keys=another.keys))
    for act in (
        lambda: behind.has_accepted(ANN, "terms", 1, NOW),
        lambda: behind.record(ANN, "terms", 2, NOW),
        lambda: behind.withdraw_all(ANN, NOW),
    ):
        with pytest.raises(StorageUnavailable, match="kid-unknown"):
            act()
    assert documents(store(storage, ours)) == {"terms": 1}


# --- at the start -------------------------------------------------------------------------------


def test_a_store_that_loses_what_it_acknowledged_stops_the_start_unless_that_is_accepted() -> None:
    def configured(*accept_weak_store_for: str, ring: Keyring = RING) -> Settings:
        return Settings(
            keys=StaticKeys(ring), storage="memory:", accept_weak_store_for=accept_weak_store_for
        )

    with pytest.raises(ConfigurationError, match="loses acknowledged writes in a crash"):
        ConsentStore.of(configured())
    with pytest.raises(ConfigurationError, match="keys generate --lookup"):
        ConsentStore.of(configured("consent", ring=Keyring(RING.keys)))
    consents = ConsentStore.of(configured("consent"))
    now = configured().clock()
    consents.record(ANN, "terms", 1, now)
    assert consents.has_accepted(ANN, "terms", 1, now)

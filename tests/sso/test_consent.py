"""Consents: looked up, listed, withdrawn, merged, and kept longer than any key."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealedstate import ConfigurationError, Keyring
from sealedstate._wire import cbor
from sealedstate.errors import CapacityError, NoPrimaryKey, StorageUnavailable, UnsupportedValue
from sealedstate.rotation import Ring, Schedule, founded, rotated
from sealedstate.sso import Consent, ConsentStore
from sealedstate.sso.consent import KIND
from sealedstate.storage import MemoryStorage, Storage
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Clock
from tests.support.login_makers import OTHER_SP, SP
from tests.support.rings import DAY, randomness
from tests.support.services import LOOKUP, ON_SERVERS, RING, deployment, opened, rows
from tests.support.sql_servers import postgresql_server
from tests.support.stored import Rows

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


def open_consents(
    storage: Any, now: float = NOW, ring: Keyring = RING, **given: Any
) -> ConsentStore:
    return ConsentStore(deployment(storage, ring, Clock(now), **given))


def in_memory() -> ConsentStore:
    return open_consents(MemoryStorage(Clock(NOW)))


def documents(consents: ConsentStore, subject: str = ANN) -> dict[str, int]:
    return {one.document: one.version for one in consents.of_subject(subject)}


def replace_row(store: MemoryStorage, seal: Callable[[str, int], bytes]) -> int:
    """Write another value into the only row; returns its version."""
    ((key, stored),) = rows(store, KIND.context).items()
    version = stored.version + 1
    store.update(KIND.context, key, seal(key, version), None, version)
    return version


def write_payload(store: MemoryStorage, payload: bytes) -> int:
    """Replace the only row's payload, as another release of ours may write it."""

    def seal(key: str, version: int) -> bytes:
        return Rows("default").seal_row(KIND.context, key, version, payload, RING, NOW)

    return replace_row(store, seal)


# --- on every store -----------------------------------------------------------------------------


def test_acceptance_covers_older_versions_of_that_subject_and_document(storage: Storage) -> None:
    node, other_node = open_consents(storage), open_consents(storage)
    assert not node.has_accepted(ANN, "terms", 1)
    node.record(ANN, "terms", 2)
    accepted = [other_node.has_accepted(ANN, "terms", version) for version in (1, 2, 3)]
    assert accepted == [True, True, False]
    assert not node.has_accepted(BOB, "terms", 1)
    assert not node.has_accepted(ANN, "privacy", 1)
    assert not open_consents(storage, realm="another").has_accepted(ANN, "terms", 1)


def test_attributes_are_accepted_service_by_service(storage: Storage) -> None:
    consents = open_consents(storage)
    consents.record(ANN, "attributes", 1, service=SP, attributes=["mail", "name"])

    def may(service: str | None, *attributes: str) -> bool:
        return consents.has_accepted(ANN, "attributes", 1, service, attributes)

    assert may(SP)
    assert may(SP, "mail")
    assert may(SP, "mail", "name")
    assert not may(SP, "mail", "birthday")
    assert not may(OTHER_SP, "mail")
    assert not may(None, "mail")
    consents.record(ANN, "attributes", 1, service=SP, attributes=["mail"])
    assert not may(SP, "mail", "name")


def test_consents_are_listed_in_order_and_withdrawn_one_by_one_or_at_once(storage: Storage) -> None:
    consents = open_consents(storage)
    consents.record(ANN, "terms", 3, expires_at=NOW + YEAR)
    consents.record(ANN, "attributes", 1, service=SP, attributes=["mail"])
    consents.record(ANN, "attributes", 1, service=OTHER_SP)
    consents.record(BOB, "terms", 1)
    assert consents.of_subject(ANN) == (
        Consent("attributes", 1, NOW, None, SP, frozenset({"mail"})),
        Consent("attributes", 1, NOW, None, OTHER_SP),
        Consent("terms", 3, NOW, NOW + YEAR),
    )
    consents.withdraw(ANN, "attributes", SP)
    consents.withdraw(ANN, "attributes", "https://never.example.org")
    assert [one.service for one in consents.of_subject(ANN)] == [OTHER_SP, None]
    consents.withdraw_all(ANN)
    consents.withdraw_all(ANN)
    assert consents.of_subject(ANN) == ()
    assert len(rows(storage, KIND.context)) == 1
    assert documents(consents, BOB) == {"terms": 1}


def test_consent_is_valid_until_it_expires_or_for_ever(storage: Storage, clock: Clock) -> None:
    consents = open_consents(storage)
    consents.record(ANN, "terms", 1, expires_at=NOW + DAY)
    consents.record(BOB, "terms", 1, expires_at=NOW + DAY)
    consents.record(BOB, "privacy", 1)
    clock.now = NOW + DAY - 1
    assert open_consents(storage, clock.now).has_accepted(ANN, "terms", 1)
    clock.now = NOW + DAY
    later = open_consents(storage, clock.now)
    assert not later.has_accepted(ANN, "terms", 1)
    assert documents(later, BOB) == {"privacy": 1}
    assert len(rows(storage, KIND.context)) == 1  # the store has removed Ann's
    clock.now = NOW + 50 * YEAR
    assert open_consents(storage, clock.now).has_accepted(BOB, "privacy", 1)


def test_store_reveals_neither_subject_nor_consents(storage: Storage) -> None:
    open_consents(storage).record("ann.example", "terms-of-use", 1, service=SP)
    ((key, stored),) = rows(storage, KIND.context).items()
    shown = key.encode() + stored.value
    assert not [word for word in (b"ann", b"terms", SP.encode()) if word in shown]


def test_concurrent_changes_are_all_made(storage: Storage) -> None:
    problems: list[BaseException] = []
    start = threading.Barrier(4)

    def change(number: int) -> None:
        consents = open_consents(storage)
        try:
            start.wait(30)
            for turn in range(5):
                consents.record(ANN, f"document {number}", turn + 1)
                consents.record(ANN, f"passing {number}", 1)
                consents.withdraw(ANN, f"passing {number}")
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
        assert documents(open_consents(storage)) == {f"document {n}": 5 for n in range(4)}


# --- which consent counts -----------------------------------------------------------------------


def test_older_version_replaces_a_newer_one_only_after_that_expired() -> None:
    store = MemoryStorage(Clock(NOW))
    consents = open_consents(store)
    consents.record(ANN, "terms", 3, expires_at=NOW + 10)
    consents.record(ANN, "terms", 2)
    assert documents(consents) == {"terms": 3}
    later = open_consents(store, NOW + 10)
    later.record(ANN, "terms", 2)
    assert documents(later) == {"terms": 2}


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
FOR_ONE = st.tuples(NAMES, st.integers(1, 3), NAMES, st.frozensets(NAMES, max_size=3))
FOR_ALL = st.tuples(NAMES, st.integers(1, 3), st.none(), st.just(frozenset[str]()))
CHANGES = st.lists(
    st.tuples(st.booleans(), st.sampled_from([ANN, BOB, "\0", "é"]), FOR_ONE | FOR_ALL)
)


@settings(max_examples=40)
@given(CHANGES)
def test_any_changes_leave_what_a_dict_would_hold(changes: list[Any]) -> None:
    consents, model = in_memory(), dict[Any, Any]()
    for is_withdrawn, subject, (document, version, service, attributes) in changes:
        place = (subject, document, service)
        if is_withdrawn:
            consents.withdraw(subject, document, service)
            model.pop(place, None)
        else:
            consents.record(subject, document, version, service=service, attributes=attributes)
            if version >= model.get(place, (0,))[0]:
                model[place] = (version, attributes)
    for (subject, document, service), (version, attributes) in model.items():
        assert consents.has_accepted(subject, document, version, service, attributes)
        assert not consents.has_accepted(subject, document, version + 1, service)
    for subject in (ANN, BOB):
        found = {(subject, *one.about) for one in consents.of_subject(subject)}
        assert found == {place for place in model if place[0] == subject}


# --- odd input ----------------------------------------------------------------------------------

ODD_VALUES: list[tuple[type[Exception], dict[str, Any]]] = [
    *(
        (ConfigurationError, values)
        for values in (
            {"document": ""},
            {"version": 0},
            {"version": 1 << 63},
            {"expires_at": NOW},
            {"expires_at": 1 << 60},
            {"attributes": ["mail"]},  # for no service
        )
    ),
    *(
        (UnsupportedValue, values)
        for values in (
            {"subject": "\ud800"},
            {"document": 5},
            {"document": None},
            {"version": 1.5},
            {"version": True},
            {"version": "1"},
            {"expires_at": NOW + 10.5},
            {"expires_at": "tomorrow"},
            {"service": 5},
            {"service": b"https://wiki.example.org"},
            {"service": "\ud800"},
            {"service": SP, "attributes": "mail"},
            {"service": SP, "attributes": b"mail"},
            {"service": SP, "attributes": None},
            {"service": SP, "attributes": [1, 2]},
            {"service": SP, "attributes": [["mail"]]},
            {"service": SP, "attributes": ["\udfff"]},
        )
    ),
]


@pytest.mark.parametrize(("error", "values"), ODD_VALUES)
def test_bad_values_are_refused_and_change_nothing(
    error: type[Exception], values: dict[str, Any]
) -> None:
    consents = in_memory()
    usual: dict[str, Any] = {"subject": ANN, "document": "terms", "version": 1}
    with pytest.raises(error):
        consents.record(**usual | values)
    assert consents.of_subject(ANN) == ()
    consents.record(ANN, "terms", 1, service="s")
    assert consents.has_accepted(ANN, "terms", 1, "s")


def test_bad_questions_are_refused_and_odd_names_were_never_accepted() -> None:
    consents = in_memory()
    consents.record(ANN, "attributes", 1, service=SP, attributes=["mail"])
    one_text: Any = "mail"
    no_number: Any = "1"
    with pytest.raises(UnsupportedValue):
        consents.has_accepted(ANN, "attributes", 1, SP, one_text)
    with pytest.raises(UnsupportedValue):
        consents.has_accepted(ANN, "attributes", no_number, SP)
    assert not consents.has_accepted(ANN, "\ud800", 1)
    assert not consents.has_accepted(ANN, "attributes", 1, "\ud800", ["\udfff"])


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


def test_consents_with_values_of_other_types_hide_no_others() -> None:
    store = MemoryStorage(Clock(NOW))
    consents = open_consents(store)
    consents.record(ANN, "terms", 1)
    write_payload(store, cbor.encode(MIXED, "consents"))
    assert documents(consents) == {"everywhere": 2, "terms": 3}
    assert consents.has_accepted(ANN, "everywhere", 2, None, ["mail"])
    consents.record(ANN, "terms", 1, service="s")
    assert consents.has_accepted(ANN, "terms", 1, "s")
    assert consents.has_accepted(ANN, "terms", 3, SP, ["mail"])


def test_full_row_refuses_one_more_consent_and_loses_none() -> None:
    consents, long = in_memory(), "x" * 10_000
    for number in range(90):
        consents.record(ANN, "attributes", 1, service=f"{number}{long}")
    with pytest.raises((CapacityError, UnsupportedValue)):
        consents.record(ANN, "attributes", 1, service=long * 20)
    assert len(consents.of_subject(ANN)) == 90
    assert consents.has_accepted(ANN, "attributes", 1, f"7{long}")


# --- bad days -----------------------------------------------------------------------------------


def test_outage_is_not_an_answer() -> None:
    store = ScriptedStorage(Clock(NOW))
    consents = open_consents(store)
    consents.record(ANN, "terms", 1)
    store.fail("read")
    for act in (
        lambda: consents.has_accepted(ANN, "terms", 1),
        lambda: consents.of_subject(ANN),
        lambda: consents.record(ANN, "terms", 2),
        lambda: consents.withdraw_all(ANN),
    ):
        with pytest.raises(StorageUnavailable):
            act()
    store.recover()
    assert documents(consents) == {"terms": 1}


@pytest.mark.parametrize("done", [True, False], ids=["written", "still on its way"])
@pytest.mark.parametrize("operation", ["create", "update", "delete"])
def test_changes_survive_lost_replies(done: bool, operation: str) -> None:
    store = ScriptedStorage(Clock(NOW))
    consents = open_consents(store)
    (store.lose_reply if done else store.delay)(operation, times=2)
    consents.record(ANN, "terms", 1)
    consents.record(ANN, "terms", 2)
    store.arrive()
    assert documents(consents) == {"terms": 2}
    consents.withdraw(ANN, "terms")
    store.arrive()
    assert documents(consents) == {}


def test_row_that_was_tampered_with_holds_no_consent_and_is_written_again() -> None:
    store = MemoryStorage(Clock(NOW))
    consents = open_consents(store)
    consents.record(ANN, "terms", 1)
    ((_, stored),) = rows(store, KIND.context).items()
    replace_row(store, lambda *_: stored.value)
    assert not consents.has_accepted(ANN, "terms", 1)
    write_payload(store, b"\x80")  # an empty list
    assert consents.of_subject(ANN) == ()
    consents.record(ANN, "terms", 1)
    assert consents.has_accepted(ANN, "terms", 1)


@pytest.mark.parametrize("payload", [b"\x81\x80", b"\x01", b"\x81\x87" + b"\x01" * 7, b"\xff"])
def test_row_of_a_newer_release_is_left_alone(payload: bytes) -> None:
    store = MemoryStorage(Clock(NOW))
    consents = open_consents(store)
    consents.record(ANN, "terms", 1)
    version = write_payload(store, payload)
    for act in (lambda: consents.of_subject(ANN), lambda: consents.record(ANN, "terms", 2)):
        with pytest.raises(StorageUnavailable, match="unreadable here"):
            act()
    assert [stored.version for stored in rows(store, KIND.context).values()] == [version]


# --- longer than any key ------------------------------------------------------------------------

DAILY = Schedule(DAY, 900, DAY, 60)


def a_ring(seed: str = "consents") -> Ring:
    return founded(DAILY, NOW, randomness(seed))


def test_consent_outlives_every_key_that_seals_sessions(storage: Storage) -> None:
    ring = a_ring()
    open_consents(storage, ring=ring.keyring()).record(ANN, "terms", 1)
    first, now = ring.keys[0].kid, NOW
    for _ in range(30):
        now += DAY
        ring = rotated(ring, DAILY, now, randomness(str(now)))
    assert ring.find(first) is None
    consents = open_consents(storage, now, ring.keyring())
    assert consents.has_accepted(ANN, "terms", 1)
    consents.record(ANN, "privacy", 1)
    assert documents(consents) == {"terms": 1, "privacy": 1}


def test_ring_without_a_long_term_key_records_nothing() -> None:
    store = MemoryStorage(Clock(NOW))
    bare = Keyring(RING.keys, lookup=LOOKUP, long_term_keys=())
    with pytest.raises(NoPrimaryKey, match="rotate --lasting"):
        open_consents(store, ring=bare).record(ANN, "terms", 1)
    assert rows(store, KIND.context) == {}


def test_node_without_the_key_answers_nothing_and_loses_nothing() -> None:
    store = MemoryStorage(Clock(NOW))
    ours, another = a_ring().keyring(), a_ring("another").keyring()
    open_consents(store, ring=ours).record(ANN, "terms", 1)
    lagging = Keyring(another.keys, lookup=ours.lookup, long_term_keys=another.keys)
    behind = open_consents(store, ring=lagging)
    for act in (
        lambda: behind.has_accepted(ANN, "terms", 1),
        lambda: behind.record(ANN, "terms", 2),
        lambda: behind.withdraw_all(ANN),
    ):
        with pytest.raises(StorageUnavailable, match="kid-unknown"):
            act()
    assert documents(open_consents(store, ring=ours)) == {"terms": 1}


def test_constructor_refuses_what_cannot_keep_consents() -> None:
    store = MemoryStorage(Clock(NOW))
    with pytest.raises(ConfigurationError, match="loses acknowledged writes in a crash"):
        open_consents(store, accept=["revocation"])
    with pytest.raises(ConfigurationError, match="keys generate --lookup"):
        open_consents(store, ring=Keyring(RING.keys))

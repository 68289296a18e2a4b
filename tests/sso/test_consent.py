"""Consents: looked up, listed, withdrawn, merged, and kept longer than any key."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealedstate import ConfigurationError
from sealedstate._wire import cbor
from sealedstate.errors import (
    CapacityError,
    NoPrimaryKey,
    RowUnreadable,
    StorageUnavailable,
    UnsupportedValue,
)
from sealedstate.keyring import Keyring
from sealedstate.rotation.ring import Ring, Schedule
from sealedstate.rotation.transitions import create_ring, rotate
from sealedstate.sso import Consent, ConsentStore
from sealedstate.sso.consent import KIND
from sealedstate.storage import MemoryStorage, Storage
from sealedstate.testing import ScriptedStorage
from tests.support.identity_providers import LOOKUP, OTHER_SP, RING, SP, deployment, rows
from tests.support.jar import Clock
from tests.support.rings import DAY, randomness
from tests.support.stored import Rows

NOW = 1_800_000_000
YEAR = 365 * DAY
ANN, BOB = "ann", "bob"


def open_consents(
    storage: Any, now: float = NOW, ring: Keyring = RING, **given: Any
) -> ConsentStore:
    return ConsentStore(deployment(storage, ring, Clock(now), **given))


def in_memory() -> ConsentStore:
    return open_consents(MemoryStorage(Clock()))


def documents(consents: ConsentStore, subject: str = ANN) -> dict[str, int]:
    return {one.document: one.version for one in consents.of_subject(subject)}


def all_calls(consents: ConsentStore) -> list[Callable[[], object]]:
    return [
        lambda: consents.has_accepted(ANN, "terms", 1),
        lambda: consents.of_subject(ANN),
        lambda: consents.record(ANN, "terms", 2),
        lambda: consents.withdraw_all(ANN),
    ]


def write_payload(store: MemoryStorage, payload: bytes) -> None:
    """Replace the only row's payload, as another release may write it."""
    ((key, stored),) = rows(store, KIND.context).items()
    version = stored.version + 1
    value = Rows("default").seal_row(KIND.context, key, version, payload, RING, NOW)
    store.update(KIND.context, key, value, None, version)


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

    assert all([may(SP), may(SP, "mail"), may(SP, "mail", "name")])
    assert not any([may(SP, "mail", "birthday"), may(OTHER_SP, "mail"), may(None, "mail")])
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
    for _ in range(2):
        consents.withdraw_all(ANN)
    assert consents.of_subject(ANN) == ()
    assert len(rows(storage, KIND.context)) == 1
    assert documents(consents, BOB) == {"terms": 1}


def test_consent_is_valid_until_it_expires_or_for_ever(storage: Storage, clock: Clock) -> None:
    consents = open_consents(storage)
    for subject in (ANN, BOB):
        consents.record(subject, "terms", 1, expires_at=NOW + DAY)
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


def test_what_was_shown_and_entered_is_kept_listed_and_erased(storage: Storage) -> None:
    node, other_node = open_consents(storage), open_consents(storage)
    shown: dict[str, str | int | bool] = {"fee": 1_000, "operator": "Exämple Ltd"}
    entered: dict[str, str | int | bool] = {"news": False, "why": "x" * 1024, "age": -5}
    node.record(ANN, "terms", 2, parameters=shown, answers=entered)
    entered["age"] = 6  # the store has what was entered then
    for consents in (node, other_node):
        found = consents.find(ANN, "terms")
        assert found is not None
        assert found.parameters == shown
        assert found.answers == {"age": -5, "news": False, "why": "x" * 1024}
        assert (found,) == consents.of_subject(ANN)
    node.record(ANN, "terms", 2, answers={"news": True})
    assert other_node.of_subject(ANN) == (Consent("terms", 2, NOW, answers={"news": True}),)
    node.withdraw(ANN, "terms")
    assert other_node.find(ANN, "terms") is None
    assert rows(storage, KIND.context) == {}


def test_store_reveals_nothing_that_was_entered(storage: Storage) -> None:
    entered = {"diagnosis": "measles"}
    open_consents(storage).record(ANN, "terms", 1, parameters=entered, answers=entered)
    ((_, stored),) = rows(storage, KIND.context).items()
    assert b"diagnosis" not in stored.value
    assert b"measles" not in stored.value
    assert "measles" not in repr(open_consents(storage).of_subject(ANN))


def test_concurrent_changes_are_all_made(storage: Storage) -> None:
    def change(number: int) -> None:
        consents = open_consents(storage)
        for turn in range(5):
            consents.record(ANN, f"document {number}", turn + 1)
            consents.record(ANN, f"passing {number}", 1)
            consents.withdraw(ANN, f"passing {number}")

    with ThreadPoolExecutor(4) as pool:
        problems = [future.exception() for future in [pool.submit(change, n) for n in range(4)]]
    # A busy server may answer too late, and then says so.
    assert all(error is None or isinstance(error, StorageUnavailable) for error in problems)
    if not any(problems):
        assert documents(open_consents(storage)) == {f"document {n}": 5 for n in range(4)}


# --- which consent counts -----------------------------------------------------------------------


def test_older_version_replaces_a_newer_one_only_after_that_expired() -> None:
    store = MemoryStorage(Clock())
    consents = open_consents(store)
    consents.record(ANN, "terms", 3, expires_at=NOW + 10)
    consents.record(ANN, "terms", 2)
    assert documents(consents) == {"terms": 3}
    later = open_consents(store, NOW + 10)
    later.record(ANN, "terms", 2)
    assert documents(later) == {"terms": 2}


def test_terms_that_were_filled_otherwise_are_not_accepted() -> None:
    consents = in_memory()
    consents.record(ANN, "terms", 3, parameters={"fee": 1, "place": "here"})
    for version in (2, 3):
        assert consents.has_accepted(ANN, "terms", version)
        assert consents.has_accepted(ANN, "terms", version, parameters={"place": "here", "fee": 1})
    others: list[Any] = [
        {},
        {"fee": 1},
        {"fee": 2, "place": "here"},
        {"fee": True, "place": "here"},
    ]
    for parameters in others:
        assert not consents.has_accepted(ANN, "terms", 3, parameters=parameters)
    consents.record(ANN, "terms", 3)
    assert consents.has_accepted(ANN, "terms", 3, parameters={})


def test_answer_that_equals_the_former_one_but_is_another_replaces_it() -> None:
    consents = in_memory()
    for answer in (1, True, 1):
        consents.record(ANN, "terms", 1, answers={"count": answer})
        (found,) = consents.of_subject(ANN)
        assert type(found.answers["count"]) is type(answer)


def test_consents_can_be_hashed_copied_and_pickled() -> None:
    consent = Consent("terms", 1, NOW, parameters={"fee": 1}, answers={"b": "x", "a": True})
    assert list(consent.answers) == ["a", "b"]
    for other in (copy.deepcopy(consent), pickle.loads(pickle.dumps(consent))):
        assert (other, hash(other), asdict(other)) == (consent, hash(consent), asdict(consent))
    assert consent != Consent("terms", 1, NOW, parameters={"fee": 1})


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
FOR_ONE = st.tuples(NAMES, st.integers(1, 3), NAMES, st.frozensets(NAMES, max_size=3))
FOR_ALL = st.tuples(NAMES, st.integers(1, 3), st.none(), st.just(frozenset[str]()))
SUBJECTS = st.sampled_from([ANN, BOB, "\0", "é"])


@settings(max_examples=40)
@given(st.lists(st.tuples(st.booleans(), SUBJECTS, FOR_ONE | FOR_ALL)))
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

# Keyword arguments of `record`. Attributes without a service are a mistake, too.
BAD: dict[type[Exception], dict[str, list[Any]]] = {
    ConfigurationError: {
        "document": [""],
        "version": [0, 1 << 63],
        "expires_at": [NOW, 1 << 60],
        "attributes": [["mail"]],
    },
    UnsupportedValue: {
        "subject": ["\ud800", 5],
        "document": [5, None],
        "version": [1.5, True, "1"],
        "expires_at": [NOW + 10.5, "tomorrow"],
        "service": [5, b"https://wiki.example.org", "\ud800"],
        "attributes": ["mail", b"mail", None, [1, 2], [["mail"]], ["\udfff"]],
    },
}


@pytest.mark.parametrize("error", BAD)
def test_bad_values_are_refused_and_change_nothing(error: type[Exception]) -> None:
    consents = in_memory()
    usual: dict[str, Any] = {"subject": ANN, "document": "terms", "version": 1}
    for name, values in BAD[error].items():
        for value in values:
            more = {"service": SP} if (name, error) == ("attributes", UnsupportedValue) else {}
            with pytest.raises(error):
                consents.record(**usual | more | {name: value})
            assert consents.of_subject(ANN) == (), (name, value)
    consents.record(ANN, "terms", 1, service="s")
    assert consents.has_accepted(ANN, "terms", 1, "s")


# Each with the beginning of the error's path.
BAD_DETAILS: list[tuple[Any, str]] = [
    ("why", "answers"),
    ([("why", "text")], "answers"),
    (None, "answers"),
    ({1: "text"}, "a name in answers"),
    ({"\ud800": "text"}, "a name in answers"),
    ({"é" * 33: "text"}, "a name in answers"),
    ({"why": None}, "answers['why']"),
    ({"why": 1.5}, "answers['why']"),
    ({"why": b"text"}, "answers['why']"),
    ({"why": ["text"]}, "answers['why']"),
    ({"why": "\udfff"}, "answers['why']"),
    ({"why": "é" * 513}, "answers['why']"),
    ({"why": 1 << 63}, "answers['why']"),
    ({"why": (-1 << 63) - 1}, "answers['why']"),
    ({str(number): 1 for number in range(33)}, "answers"),
    ({str(number): "x" * 1000 for number in range(5)}, "answers"),
]


def test_answers_of_other_types_or_sizes_are_refused_and_change_nothing() -> None:
    consents = in_memory()
    consents.record(ANN, "terms", 1, answers={"why": "first"})
    for answers, path in BAD_DETAILS:
        with pytest.raises(UnsupportedValue) as caught:
            consents.record(ANN, "terms", 1, answers=answers)
        assert caught.value.path == path
        with pytest.raises(UnsupportedValue) as caught:
            consents.record(ANN, "terms", 1, parameters=answers)
        assert caught.value.path == path.replace("answers", "parameters")
        if answers is not None:
            with pytest.raises(UnsupportedValue):
                consents.has_accepted(ANN, "terms", 1, parameters=answers)
    assert consents.of_subject(ANN) == (Consent("terms", 1, NOW, answers={"why": "first"}),)
    largest: dict[str, str | int | bool] = {
        "é" * 32: "é" * 512,
        "most": (1 << 63) - 1,
        "least": -1 << 63,
        "": "",
    }
    consents.record(ANN, "terms", 1, answers=largest)
    assert consents.of_subject(ANN)[0].answers == largest


def test_bad_questions_are_refused_and_odd_names_were_never_accepted() -> None:
    consents = in_memory()
    consents.record(ANN, "attributes", 1, service=SP, attributes=["mail"])
    odd: list[Any] = [(1, "mail"), ("1", ["mail"])]
    for version, attributes in odd:
        with pytest.raises(UnsupportedValue):
            consents.has_accepted(ANN, "attributes", version, SP, attributes)
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
    store = MemoryStorage(Clock())
    consents = open_consents(store)
    consents.record(ANN, "terms", 1)
    write_payload(store, cbor.encode(MIXED, "consents"))
    assert documents(consents) == {"everywhere": 2, "terms": 3}
    assert consents.has_accepted(ANN, "everywhere", 2, None, ["mail"])
    consents.record(ANN, "terms", 1, service="s")
    assert consents.has_accepted(ANN, "terms", 1, "s")
    assert consents.has_accepted(ANN, "terms", 3, SP, ["mail"])


TERMS = ["terms", 3, NOW, None, None, []]


def test_row_of_an_earlier_release_is_read_and_grows_by_what_is_new() -> None:
    store = MemoryStorage(Clock())
    consents = open_consents(store)
    consents.record(ANN, "terms", 1)
    write_payload(store, cbor.encode([TERMS], "consents"))
    assert consents.of_subject(ANN) == (Consent("terms", 3, NOW),)
    consents.record(ANN, "privacy", 1, answers={"news": True})
    assert documents(consents) == {"privacy": 1, "terms": 3}
    consents.withdraw(ANN, "privacy")
    ((key, stored),) = rows(store, KIND.context).items()
    payload = Rows("default").open_row(KIND.context, key, stored, RING, NOW)
    assert payload == cbor.encode([TERMS], "consents")  # which an earlier release reads


@pytest.mark.parametrize(
    "row",
    [
        [*TERMS, {"fee": 1}],
        [*TERMS, {}, {"why": "text"}, 5],
        [*TERMS, {}, {"why": ["several", "texts"]}],
        [*TERMS, {}, {"why": "x" * 1025}],
        [*TERMS, {}, ["why"]],
        TERMS[:5],
        "abcdef",
    ],
)
def test_row_of_a_newer_release_is_neither_read_nor_overwritten(row: Any) -> None:
    store = MemoryStorage(Clock())
    consents = open_consents(store)
    consents.record(ANN, "terms", 1)
    write_payload(store, cbor.encode([row], "consents"))
    before = rows(store, KIND.context)
    for call in all_calls(consents):
        with pytest.raises(RowUnreadable):
            call()
    assert rows(store, KIND.context) == before


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
    store = ScriptedStorage(Clock())
    consents = open_consents(store)
    consents.record(ANN, "terms", 1)
    store.fail("read")
    for call in all_calls(consents):
        with pytest.raises(StorageUnavailable):
            call()
    store.recover()
    assert documents(consents) == {"terms": 1}


@pytest.mark.parametrize("done", [True, False], ids=["written", "still on its way"])
@pytest.mark.parametrize("operation", ["create", "update", "delete"])
def test_changes_survive_lost_replies(done: bool, operation: str) -> None:
    store = ScriptedStorage(Clock())
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
    store = MemoryStorage(Clock())
    consents = open_consents(store)
    consents.record(ANN, "terms", 1)
    ((key, stored),) = rows(store, KIND.context).items()
    store.update(KIND.context, key, stored.value, None, stored.version + 1)
    assert not consents.has_accepted(ANN, "terms", 1)
    consents.record(ANN, "terms", 1)
    assert consents.has_accepted(ANN, "terms", 1)
    write_payload(store, b"\x80")  # an empty list
    assert consents.of_subject(ANN) == ()


@pytest.mark.parametrize("payload", [b"\x81\x80", b"\x01", b"\x81\x87" + b"\x01" * 7, b"\xff"])
def test_row_of_a_newer_release_is_left_alone(payload: bytes) -> None:
    store = MemoryStorage(Clock())
    consents = open_consents(store)
    consents.record(ANN, "terms", 1)
    write_payload(store, payload)
    before = rows(store, KIND.context)
    for call in all_calls(consents):
        with pytest.raises(StorageUnavailable, match="unreadable here"):
            call()
    assert rows(store, KIND.context) == before


# --- longer than any key ------------------------------------------------------------------------

DAILY = Schedule(DAY, 900, DAY, 60)


def a_ring(seed: str = "consents") -> Ring:
    return create_ring(DAILY, NOW, randomness(seed))


def test_consent_outlives_every_key_that_seals_sessions(storage: Storage) -> None:
    ring = a_ring()
    open_consents(storage, ring=ring.keyring()).record(ANN, "terms", 1)
    first, now = ring.keys[0].kid, NOW
    for _ in range(30):
        now += DAY
        ring = rotate(ring, DAILY, now, randomness(str(now)))
    assert ring.find(first) is None
    consents = open_consents(storage, now, ring.keyring())
    assert consents.has_accepted(ANN, "terms", 1)
    consents.record(ANN, "privacy", 1)
    assert documents(consents) == {"terms": 1, "privacy": 1}


def test_ring_without_a_long_term_key_records_nothing() -> None:
    store = MemoryStorage(Clock())
    bare = Keyring(RING.keys, lookup=LOOKUP, long_term_keys=())
    with pytest.raises(NoPrimaryKey, match="rotate --lasting"):
        open_consents(store, ring=bare).record(ANN, "terms", 1)
    assert rows(store, KIND.context) == {}


def test_node_without_the_key_answers_nothing_and_loses_nothing() -> None:
    store = MemoryStorage(Clock())
    ours, another = a_ring().keyring(), a_ring("another").keyring()
    open_consents(store, ring=ours).record(ANN, "terms", 1)
    lagging = Keyring(another.keys, lookup=ours.lookup, long_term_keys=another.keys)
    for call in all_calls(open_consents(store, ring=lagging)):
        with pytest.raises(StorageUnavailable, match="kid-unknown"):
            call()
    assert documents(open_consents(store, ring=ours)) == {"terms": 1}

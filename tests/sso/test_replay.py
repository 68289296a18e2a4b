"""The replay cache admits a message once, whichever node asks and whatever reply is lost."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import ConfigurationError
from sealedstate.errors import StorageUnavailable
from sealedstate.keyring import Keyring
from sealedstate.sso import Admission, ReplayCache
from sealedstate.sso.replay import KIND, LONGEST
from sealedstate.storage import MemoryStorage, Storage
from sealedstate.testing import ScriptedStorage
from tests.support.identity_providers import RING, SKEW, a_key, deployment, rows
from tests.support.jar import Clock

IDP, OTHER_IDP = "https://idp.example.org/saml", "https://idp.example.com/saml"
ID = "_5c1f"
NOW = 1_800_000_000
EXPIRES = NOW + 300


def cache(storage: Any, now: float = NOW, ring: Keyring = RING, **given: Any) -> ReplayCache:
    return ReplayCache(deployment(storage, ring, Clock(now), **given))


def in_memory() -> ReplayCache:
    return cache(MemoryStorage(Clock(NOW)))


def scripted() -> ScriptedStorage:
    return ScriptedStorage(Clock(NOW))


# --- on every store -----------------------------------------------------------------------------


def test_message_is_admitted_once_on_all_nodes_of_its_realm(storage: Storage) -> None:
    node, other_node = cache(storage), cache(storage)
    assert node.admit(IDP, ID, EXPIRES) is Admission.ADMITTED
    assert node.admit(IDP, ID, EXPIRES) is Admission.SEEN
    assert not other_node.admit(IDP, ID, EXPIRES)
    assert other_node.admit(OTHER_IDP, ID, EXPIRES)
    assert other_node.admit(IDP, ID + "0", EXPIRES)
    assert cache(storage, realm="another").admit(IDP, ID, EXPIRES)


def test_message_is_remembered_until_no_clock_within_the_skew_can_admit_it(
    storage: Storage, clock: Clock
) -> None:
    assert cache(storage).admit(IDP, ID, EXPIRES)
    # The store's clock is ahead by the skew, so that it forgets first.
    clock.now = EXPIRES + 2 * SKEW - 1
    assert not cache(storage, EXPIRES + SKEW - 1).admit(IDP, ID, EXPIRES)
    assert len(rows(storage, KIND.context)) == 1
    clock.now = EXPIRES + 2 * SKEW
    assert rows(storage, KIND.context) == {}


def test_store_reveals_nothing_about_a_message(storage: Storage) -> None:
    another = Keyring(RING.keys, lookup=a_key(5).secret)
    for node in (cache(storage), cache(storage, realm="another"), cache(storage, ring=another)):
        node.admit(IDP, ID, EXPIRES)
    found = rows(storage, KIND.context)
    assert [len(key) for key in found] == [32] * 3  # another key by realm and by lookup key
    shown = "".join(found) + "".join(stored.value.decode("latin-1") for stored in found.values())
    assert not [secret for secret in (IDP, ID, "example") if secret in shown]


# --- odd input ----------------------------------------------------------------------------------


def test_message_is_admitted_only_between_its_expiry_and_the_longest_time() -> None:
    store = MemoryStorage(Clock(NOW))
    past = (NOW - SKEW, NOW - SKEW - 0.5, 0, -1, -math.inf)
    too_late = (NOW + LONGEST + SKEW + 1, 1 << 53, 1 << 70, 1e300, math.inf, math.nan)
    for reason, times in ((Admission.STALE, past), (Admission.FOREIGN, too_late)):
        for expires_at in times:
            assert cache(store).admit(IDP, ID, expires_at) is reason, expires_at
    assert rows(store, KIND.context) == {}
    for number, expires_at in enumerate((NOW - SKEW + 0.5, NOW, NOW + LONGEST + SKEW)):
        assert cache(store).admit(IDP, f"{ID}{number}", expires_at), expires_at
        assert cache(store).admit(IDP, f"{ID}{number}", expires_at) is Admission.SEEN, expires_at


def test_issuer_or_id_that_no_message_has_is_refused_and_uses_up_no_other() -> None:
    replays = in_memory()
    odd: list[tuple[Any, Any]] = [("", ID), (IDP, ""), (IDP, "\ud800"), ("\udfff", ID)]
    odd += [(IDP, ID.encode()), (IDP.encode(), ID), (None, ID)]
    for issuer, message_id in odd:
        assert replays.admit(issuer, message_id, EXPIRES) is Admission.FOREIGN
    assert replays.admit(IDP, ID, EXPIRES)


@pytest.mark.parametrize("size", [1024, 10_000, 1_000_000])
def test_long_ids_are_distinguished_by_their_last_letter(size: int) -> None:
    replays, long = in_memory(), "x" * size
    assert replays.admit(IDP, long, EXPIRES)
    assert not replays.admit(IDP, long, EXPIRES)
    assert replays.admit(IDP, long + "y", EXPIRES)
    assert replays.admit(long, ID, EXPIRES)


HOSTILE = st.text(max_size=40) | st.sampled_from(["a", "A", "\u00e9", "e\u0301", "\0", " ", "a\0"])


@given(st.lists(st.tuples(HOSTILE, HOSTILE), min_size=1, max_size=20))
def test_exactly_the_new_messages_are_admitted(messages: list[tuple[str, str]]) -> None:
    replays, seen = in_memory(), set[tuple[str, str]]()
    for issuer, message_id in messages:
        is_new = (issuer, message_id) not in seen and bool(issuer and message_id)
        assert bool(replays.admit(issuer, message_id, EXPIRES)) is is_new
        seen.add((issuer, message_id))


# --- texts of a protector -----------------------------------------------------------------------


def test_text_is_admitted_once_and_only_where_and_while_it_opens() -> None:
    store, clock = MemoryStorage(Clock(NOW)), Clock(NOW)
    node, other_node = (deployment(store, RING, clock) for _ in range(2))
    replays = ReplayCache(other_node)
    forms, links = (node.protector(name, max_age=60) for name in ("form", "link"))
    text, another = (forms.seal(None, bound_to="session 1") for _ in range(2))
    foreign: list[tuple[Any, Any]] = [(text, "session 2"), (text, None), (text + "A", "session 1")]
    foreign += [(odd, "session 1") for odd in ("", "junk", None, b"junk", "\ud800")]
    for odd, bound_to in [*foreign, (links.seal(None), "session 1")]:
        assert replays.admit_text(forms, odd, bound_to) is Admission.FOREIGN, odd
    assert replays.admit_text(links, text, "session 1") is Admission.FOREIGN
    assert replays.admit_text(forms, text, "session 1") is Admission.ADMITTED
    assert ReplayCache(node).admit_text(forms, text, "session 1") is Admission.SEEN
    assert replays.admit_text(forms, another, "session 1") is Admission.ADMITTED
    clock.now += 60
    for used in (text, forms.seal(None, bound_to="session 1")):
        assert replays.admit_text(forms, used, "session 1") is (
            Admission.STALE if used is text else Admission.ADMITTED
        )


def test_text_is_remembered_for_as_long_as_any_node_opens_it() -> None:
    store_clock, ahead = Clock(NOW + SKEW), deployment(MemoryStorage(Clock()), RING, Clock(NOW))
    store = MemoryStorage(store_clock)
    text = ahead.protector("form", max_age=60).seal(None)
    late = Clock(NOW - SKEW)  # its text is of the future for this node, and of the present later
    behind = deployment(store, RING, late)
    replays, forms = ReplayCache(behind), behind.protector("form", max_age=60)
    assert replays.admit_text(forms, text) is Admission.ADMITTED
    late.now, store_clock.now = NOW + 59, NOW + 59 + 2 * SKEW
    assert replays.admit_text(forms, text) is Admission.SEEN


def test_text_that_could_outlive_the_memory_of_it_is_a_mistake() -> None:
    node = deployment(MemoryStorage(Clock(NOW)), RING, Clock(NOW))
    with pytest.raises(ConfigurationError, match="at least the max_age of the protector"):
        ReplayCache(node, longest=59).admit_text(node.protector("form", max_age=60), "text")


# --- bad days -----------------------------------------------------------------------------------


def test_outage_raises_and_the_message_can_be_tried_again() -> None:
    store = scripted()
    replays = cache(store)
    store.fail("create")
    with pytest.raises(StorageUnavailable):
        replays.admit(IDP, ID, EXPIRES)
    store.recover()
    assert replays.admit(IDP, ID, EXPIRES)


@pytest.mark.parametrize("done", [True, False], ids=["written", "still on its way"])
def test_lost_reply_leaves_exactly_one_admission(done: bool) -> None:
    store = scripted()
    misbehave = store.lose_reply if done else store.delay
    misbehave("create")
    assert cache(store).admit(IDP, ID, EXPIRES)
    store.arrive()
    assert not cache(store).admit(IDP, ID, EXPIRES)
    misbehave("create")
    assert not cache(store).admit(IDP, ID, EXPIRES)


def delay_all(store: ScriptedStorage) -> object:
    return store.delay("create", times=None)


def lose_and_fail(operation: str, after: int) -> Any:
    return lambda store: store.lose_reply("create").fail(operation, after=after)


@pytest.mark.parametrize(
    "misbehave", [delay_all, lose_and_fail("create", after=1), lose_and_fail("read", after=0)]
)
def test_message_counts_as_replayed_if_the_first_caller_stays_unknown(misbehave: Any) -> None:
    store = scripted()
    replays = cache(store)
    misbehave(store)
    assert replays.admit(IDP, ID, EXPIRES) is Admission.UNKNOWN
    store.recover().arrive()
    assert not replays.admit(IDP, ID, EXPIRES)


# --- at the start -------------------------------------------------------------------------------


def test_constructor_refuses_a_longest_time_that_is_no_number_of_seconds() -> None:
    for longest in ("day", -1, 0, 1.5, None, True):
        odd: Any = longest
        with pytest.raises(ConfigurationError, match="longest"):
            ReplayCache(deployment(MemoryStorage(Clock(NOW))), odd)

"""The plan of a save is a value that is computed without a store, and a save works once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sealedstate import Keeper, Session
from sealedstate._request.load import LoadedSession
from sealedstate._request.save import Limits, SavePlan, identify, plan_save
from sealedstate._stored.parts import CONTEXT
from sealedstate._stored.revocations import SUBJECTS
from sealedstate._wire import record as records
from sealedstate._wire.record import Place
from sealedstate.errors import SessionTooLarge
from sealedstate.session import Part
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock, keeper, loaded_of


def sign_in(session: Session) -> None:
    session.subject = "ann"
    session["cart"] = [1]


def signed_in(keeper: Keeper, change: Callable[[Session], object] = sign_in) -> Browser:
    browser = Browser(keeper)
    browser.visit(sign_in)
    browser.visit(change)
    return browser


def plan_of(keeper: Keeper, session: Session) -> SavePlan:
    loaded, changes = loaded_of(session), session.changes()
    parts = {
        name: part if isinstance(part, Part) else Part(Place.CORE, None, part, part)
        for name, part in changes.parts.items()
    }
    record = identify(keeper.deployment, changes, loaded.record, loaded.loaded_at)
    limits = Limits.of(keeper.deployment)
    return plan_save(record, changes, parts, loaded, limits, 0, loaded.loaded_at)


def test_plan_of_a_small_session_is_the_core_and_nothing_else() -> None:
    shop = keeper(Clock())
    session = signed_in(shop).session()
    session["seen"] = 1
    plan = plan_of(shop, session)
    assert plan.outside is None
    assert list(plan.record.parts) == ["cart", "seen"]
    assert plan.payload == records.encode_record(plan.record, loaded_of(session).loaded_at)
    assert plan == plan_of(shop, session)


def test_plan_names_what_is_written_deleted_and_revoked_without_asking_the_store() -> None:
    clock = Clock()
    store = ScriptedStorage(clock)
    policies = {"big": "server", "wide": "cookie", "more": "cookie"}
    shop = keeper(clock, storage=store, profile="standard", part_policies=policies)

    def fill(session: Session) -> None:
        session.update(big="b", wide="w" * 2500, more="m" * 1500)

    session = signed_in(shop, fill).session()
    before = loaded_of(session).record
    session["big"] = "changed"
    del session["wide"], session["more"]
    session.regenerate()
    asked = len(store.calls)
    plan = plan_of(shop, session)
    assert len(store.calls) == asked
    assert plan.payload is None
    assert plan.outside is not None
    assert plan.outside.places == {"cart": Place.CORE, "big": Place.SPILLED}
    assert [(spill.name, spill.known) for spill in plan.outside.spills] == [("big", None)]
    assert plan.outside.last_chunk >= 1
    assert plan.outside.replaced == before


def test_repr_of_a_plan_holds_no_name_and_no_value() -> None:
    clock = Clock()
    shop = keeper(clock, storage=ScriptedStorage(clock), part_policies={"canary": "server"})
    session = signed_in(shop).session()
    session["canary"] = "canary"
    text = repr(plan_of(shop, session))
    assert "1 spills" in text
    assert "canary" not in text
    assert "ann" not in text


def test_plan_that_does_not_fit_raises_before_anything_is_written() -> None:
    shop = keeper(Clock())
    session = signed_in(shop).session()
    large = session["large"] = list[str]()
    large.append("x" * 5000)
    with pytest.raises(SessionTooLarge):
        plan_of(shop, session)


def test_sign_in_with_a_large_part_reads_one_watermark_and_encodes_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    store = ScriptedStorage(clock)
    shop = keeper(clock, storage=store)
    shop.revoke_subject("ann")
    encoded: list[object] = []
    from sealedstate._request import save

    def counting(record: records.Record, sealed_at: int) -> bytes:
        encoded.append(record)
        return records.encode_record(record, sealed_at)

    monkeypatch.setattr(save, "encode_record", counting)
    session = shop.session("")
    session.subject, session["large"] = "ann", "x" * 5000
    store.calls.clear()
    assert shop.save(session)
    reads = [call for call in store.calls if call.operation == "read"]
    assert [call.context for call in reads if call.context == SUBJECTS] == [SUBJECTS]
    assert len(encoded) == 2


def test_membership_length_and_iteration_do_not_ask_the_store() -> None:
    clock = Clock()
    store = ScriptedStorage(clock)
    shop = keeper(clock, storage=store, part_policies={"big": "server"})
    browser = signed_in(shop, lambda session: session.update(big="b"))
    session = browser.session()
    assert session.subject == "ann"
    asked = len(store.calls)
    assert "big" in session
    assert (len(session), list(session), bool(session)) == (2, ["cart", "big"], True)
    assert len(store.calls) == asked
    assert session["big"] == "b"
    assert len(store.calls) == asked + 1


def test_only_reading_a_part_finds_that_the_store_lost_it() -> None:
    clock = Clock()
    store = ScriptedStorage(clock)
    shop = keeper(clock, storage=store, part_policies={"big": "server"})
    browser = signed_in(shop, lambda session: session.update(big="b"))
    for key in store.keys(CONTEXT):
        store.delete(CONTEXT, key)
    session = browser.session()
    assert "big" in session
    assert session.get("big") is None
    assert "big" not in session
    assert dict(browser.session()) == {"cart": [1]}


def test_loaded_session_is_whole_when_it_is_constructed() -> None:
    shop = keeper(Clock())
    browser = signed_in(shop)
    loaded = LoadedSession(shop.deployment, lambda *_: None, browser.jar.header())
    assert loaded.record is not None
    assert (loaded.withheld, loaded.adopted) == (None, None)

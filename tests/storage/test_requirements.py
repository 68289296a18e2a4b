"""Requirements meet capabilities: a mismatch is one sentence that names use, need and store."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from sealedstate._stored import parts as spilling
from sealedstate._stored import revocations as revocation
from sealedstate.rotation import ring_store
from sealedstate.sso import artifacts, consent, replay, sessions
from sealedstate.sso.logout import _state, _termination, index
from sealedstate.storage import (
    USES,
    CachedStorage,
    MemoryStorage,
    RoutedStorage,
    SQLiteStorage,
    mismatch,
    open_storage,
    unmet,
)
from sealedstate.storage.requirements import DECLARED, as_markdown, as_rows, store_name


def test_the_sentence_names_the_use_every_need_and_the_store() -> None:
    assert mismatch(USES["revocation"], "memcached", DECLARED["memcached"]) == (
        "revocation needs a store that does not evict and does not forget at a restart;"
        " memcached evicts and forgets at a restart"
    )


def test_a_store_that_can_gets_no_sentence() -> None:
    for use in USES.values():
        assert mismatch(use, "postgresql", DECLARED["postgresql"]) is None


def test_the_sentence_says_what_an_operator_can_change() -> None:
    policy = "maxmemory-policy allkeys-lru"
    can = replace(
        DECLARED["postgresql"],
        evicts=True,
        survives_restart=False,
        because={"evicts": policy, "survives_restart": policy, "durable": "of no concern"},
    )
    assert (mismatch(USES["revocation"], "redis", can) or "").endswith(
        f"; redis evicts and forgets at a restart ({policy})"
    )


def test_the_uses_of_this_release_are_in_the_contexts_that_it_writes_to() -> None:
    contexts = {title: use.contexts for title, use in USES.items() if use.contexts}
    assert contexts == {
        "spilling": (spilling.CONTEXT,),
        "revocation": (revocation.SESSIONS, revocation.SUBJECTS),
        "ring": (ring_store.CONTEXT,),
        "replay": (replay.KIND.context,),
        "artifacts": (artifacts.KIND.context,),
        "consent": (consent.KIND.context,),
        "logins": (index.KIND.context,),
        "logout": (_state.KIND.context, _termination.SUBJECT_KIND.context),
        "sessions": (sessions.KIND.context,),
    }


def test_a_store_is_called_by_a_short_name_that_holds_no_password() -> None:
    pytest.importorskip("sqlalchemy")
    stores: dict[str, object] = {
        "memory": MemoryStorage(time.time),
        "sqlite": SQLiteStorage("path", time.time),
        "sqlite behind a cache": CachedStorage(SQLiteStorage("path", time.time), time.time, 5),
        "postgresql": open_storage("postgresql://user:password@host/name", time.time),
        "mariadb": open_storage("mariadb://user:password@host/name", time.time),
        "redis": open_storage("redis://user:password@host", time.time),
        "memcached": open_storage("memcached://host:1", time.time),
        "routed": RoutedStorage(MemoryStorage(time.time), {}),
        "mine": Named(),
    }
    assert [store_name(store) for store in stores.values()] == list(stores)


class Named:
    name = "mine"


def test_nothing_that_must_be_true_is_left_in_the_visitors_hands() -> None:
    for use in USES.values():
        assert "visitor" in (mismatch(use, "cookie", DECLARED["cookie"]) or "")


def test_spilling_takes_a_store_that_may_forget() -> None:
    assert not unmet(USES["spilling"], DECLARED["memcached"])


def test_consent_takes_no_store_that_a_crash_makes_forget() -> None:
    assert unmet(USES["consent"], DECLARED["redis, snapshots"])
    assert not unmet(USES["consent"], DECLARED["redis, AOF always"])


def test_each_need_is_met_or_not_by_one_capability() -> None:
    can = DECLARED["postgresql"]
    broken = {
        "revocation": replace(can, shared=False),
        "ring": replace(can, durable=False),
        "replay": replace(can, evicts=True),
        "artifacts": replace(can, shared=False),
        "consent": replace(can, durable=False),
        "logins": replace(can, indexes=False),
        "logout": replace(can, staleness=1),
        "sessions": replace(can, enumerable=False),
        "spilling": replace(can, staleness=1),
    }
    assert broken.keys() == USES.keys()
    for title, weaker in broken.items():
        assert len(unmet(USES[title], weaker)) == 1


def test_the_declared_memory_store_is_the_real_one() -> None:
    real = MemoryStorage(time.time).capabilities
    assert [bool(unmet(use, real)) for use in USES.values()] == [
        bool(unmet(use, DECLARED["memory"])) for use in USES.values()
    ]


def test_the_matrix_has_a_row_for_each_store_and_a_column_for_each_use() -> None:
    head, *rows = as_rows(DECLARED)
    assert head == ("store", *USES)
    assert [row[0] for row in rows] == list(DECLARED)
    assert as_markdown(DECLARED).count("\n") == len(rows) + 1

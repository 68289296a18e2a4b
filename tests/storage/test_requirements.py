"""Which use may have which store, and the sentence that says why not."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from sealedstate import binding, devices
from sealedstate._stored import parts as spilling
from sealedstate._stored import revocations as revocation
from sealedstate.rotation import ring_store
from sealedstate.sso import artifacts, consent, replay
from sealedstate.sso.logout import _termination, index, progress
from sealedstate.storage import (
    USES,
    CachedStorage,
    MemoryStorage,
    RoutedStorage,
    SQLiteStorage,
    open_storage,
)
from sealedstate.storage.requirements import (
    DECLARED,
    as_markdown,
    as_rows,
    mismatch,
    store_name,
    unmet_needs,
)
from tests.support.installed import need_driver


def test_mismatch_names_the_use_its_needs_and_the_store() -> None:
    assert mismatch(USES["revocation"], "memcached", DECLARED["memcached"]) == (
        "revocation needs a store that does not evict and does not forget at a restart;"
        " memcached evicts and forgets at a restart"
    )


def test_stores_fit_to_the_uses_that_they_are_known_for() -> None:
    real = MemoryStorage(time.time).capabilities
    for use in USES.values():
        assert mismatch(use, "postgresql", DECLARED["postgresql"]) is None
        assert "visitor" in (mismatch(use, "cookie", DECLARED["cookie"]) or "")
        assert unmet_needs(use, real) == unmet_needs(use, DECLARED["memory"])
    assert not unmet_needs(USES["spilling"], DECLARED["memcached"])
    assert unmet_needs(USES["consent"], DECLARED["redis, snapshots"])
    assert not unmet_needs(USES["consent"], DECLARED["redis, AOF always"])


def test_mismatch_names_the_settings_that_an_operator_can_change() -> None:
    policy = "maxmemory-policy allkeys-lru"
    can = replace(
        DECLARED["postgresql"],
        evicts=True,
        survives_restart=False,
        reasons={"evicts": policy, "survives_restart": policy, "durable": "irrelevant"},
    )
    assert (mismatch(USES["revocation"], "redis", can) or "").endswith(
        f"; redis evicts and forgets at a restart ({policy})"
    )


def test_contexts_of_uses_are_those_that_are_written_to() -> None:
    contexts = {name: use.contexts for name, use in USES.items()}
    assert contexts == {
        "spilling": (spilling.CONTEXT,),
        "revocation": (revocation.SESSIONS, revocation.SUBJECTS),
        "feed": (revocation.SESSIONS, revocation.SUBJECTS),
        "ring": (ring_store.CONTEXT,),
        "replay": (replay.KIND.context,),
        "binding": (binding.KIND.context,),
        "artifacts": (artifacts.KIND.context,),
        "consent": (consent.KIND.context,),
        "logins": (index.KIND.context,),
        "logout": (progress.KIND.context, _termination.SUBJECT_KIND.context),
        "sessions": (devices.KIND.context,),
    }


def test_store_name_is_short_and_contains_no_password() -> None:
    need_driver("psycopg", "pymysql", "redis", "pymemcache")
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


def test_each_need_depends_on_one_capability() -> None:
    weaker: dict[str, dict[str, Any]] = {
        **{name: {"shared": False} for name in ("revocation", "artifacts")},
        **{name: {"durable": False} for name in ("ring", "consent")},
        **{name: {"staleness": 1} for name in ("logout", "spilling")},
        "replay": {"evicts": True},
        "binding": {"evicts": True},
        "logins": {"indexes": False},
        "feed": {"changes": False},
        "sessions": {"enumerable": False},
    }
    assert weaker.keys() == USES.keys()
    for name, fields in weaker.items():
        assert len(unmet_needs(USES[name], replace(DECLARED["postgresql"], **fields))) == 1


def test_matrix_has_a_row_for_each_store_and_a_column_for_each_use() -> None:
    header, *rows = as_rows(DECLARED)
    assert header == ("store", *USES)
    assert [row[0] for row in rows] == list(DECLARED)
    assert as_markdown(DECLARED).count("\n") == len(rows) + 1

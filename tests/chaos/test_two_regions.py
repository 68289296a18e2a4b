"""Two regions: what a logout promises in each, with the link cut and after it has healed.

Each region keeps its stored parts in its own store. Logouts are in one store, in the east; the
nodes in the west reach it over a link. Or each region keeps its logouts, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sealedstate import Keeper, Settings
from sealedstate.errors import StorageError
from tests.support.django_site import KEY
from tests.support.fault_proxy import FaultProxy
from tests.support.jar import Browser, Jar
from tests.support.kv_servers import redis_server
from tests.support.server_process import until
from tests.support.shop import log_out, sign_in

pytestmark = pytest.mark.server


class Region:
    """A node, with stored parts in a file of its region."""

    def __init__(self, folder: Path, name: str, logouts: str, **given: Any) -> None:
        contexts = dict.fromkeys(("sealedstate.revoked", "sealedstate.watermark"), logouts)
        parts = f"sqlite:{folder}/{name}.db"
        storage = {"*": parts} | (contexts if logouts else {})
        policies = {"cart": "server"}
        settings = Settings(keys=KEY, storage=storage, part_policies=policies, **given)
        self.keeper = Keeper(settings)

    def subject(self, jar: Jar) -> str | None:
        return self.at(jar).session().subject

    def at(self, jar: Jar) -> Browser:
        return Browser(self.keeper, jar)

    def close(self) -> None:
        self.keeper.deployment.close()


@contextlib.contextmanager
def regions(folder: Path, **given: Any) -> Iterator[tuple[Region, Region, FaultProxy]]:
    """East, west, and the link between them."""
    with redis_server("aof everysec") as server, FaultProxy(server.port) as link:
        url = "redis://127.0.0.1:{}?sealedstate_timeout=2"
        with (
            closing(Region(folder, "east", url.format(server.port), **given)) as east,
            closing(Region(folder, "west", url.format(link.port), **given)) as west,
        ):
            yield east, west, link


def cut(link: FaultProxy) -> None:
    link.refusing = True
    link.cut()


def visitor(region: Region, name: str) -> Jar:
    browser = Browser(region.keeper)
    sign_in(browser, name)
    return browser.jar


@pytest.mark.parametrize("revocation", ["each request", "feed"])
def test_no_session_opens_beyond_a_cut_link_and_no_logout_is_lost(
    tmp_path: Path, revocation: str
) -> None:
    with regions(tmp_path, revocation=revocation) as (east, west, link):
        ann, bob = visitor(west, "ann"), visitor(west, "bob")
        assert [west.subject(jar) for jar in (ann, bob)] == ["ann", "bob"]
        cut(link)
        copied = ann.copy()
        east.at(ann.copy()).visit(log_out)
        assert east.subject(copied) is None
        assert east.subject(bob) == "bob"
        # With a feed, the west goes by what it knew for 2 s.
        until(lambda: west.at(copied).session().withheld == "store-down", "the west refuses")
        assert west.at(bob).session().withheld == "store-down"
        with pytest.raises(StorageError):
            west.keeper.revoke_subject("bob")
        link.refusing = False
        until(lambda: west.subject(bob) == "bob", "the west is back")
        assert west.subject(copied) is None


def test_logout_counts_late_beyond_a_cut_link_if_the_application_accepts_that(
    tmp_path: Path,
) -> None:
    with regions(tmp_path, on_store_down=300, revocation="feed") as (east, west, link):
        ann = visitor(west, "ann")
        feed = west.keeper.deployment.feed
        assert feed is not None
        until(lambda: west.subject(ann) and feed.is_fresh(1), "the west knows all logouts")
        cut(link)
        copied = ann.copy()
        east.at(ann.copy()).visit(log_out)
        until(lambda: not feed.is_fresh(2), "what the west knows is old")
        assert (east.subject(copied), west.subject(copied)) == (None, "ann")
        with pytest.raises(StorageError):
            west.keeper.revoke_subject("ann")
        link.refusing = False
        until(lambda: west.subject(copied) is None, "the logout has come")


def test_region_with_its_own_logouts_knows_no_others_and_no_parts_of_others(tmp_path: Path) -> None:
    with (
        closing(Region(tmp_path, "east", "")) as east,
        closing(Region(tmp_path, "west", "")) as west,
    ):
        ann = visitor(east, "ann")
        east.at(ann).visit(lambda session: session.update(cart=[1]))
        assert east.at(ann).session()["cart"] == [1]
        moved = west.at(ann.copy()).session()
        assert (moved.subject, moved.get("cart")) == ("ann", None)
        copied = ann.copy()
        east.at(ann).visit(log_out)
        assert (east.subject(copied), west.subject(copied)) == (None, "ann")
        # An application that carries logouts over itself calls both.
        west.keeper.revoke_subject("ann")
        assert west.subject(copied) is None

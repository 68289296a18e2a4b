"""After a store was restored from a backup: what comes back to life, and how it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealedstate import Keeper, Key, Settings
from sealedstate.keyring import export_lookup
from tests.support.documents import DOCS
from tests.support.jar import Browser, Jar
from tests.support.ring_cli import HOUR, Desk, output

REMEDY = ("keys", "revoke", "--before", "0s")


class Site:
    """Nodes on one SQLite store, which sign visitors in and out a few minutes ago."""

    def __init__(self, environ: dict[str, str], file: Path, keys: list[str] | None = None) -> None:
        self._environ = environ | {"SEALEDSTATE_STORAGE": f"sqlite:{file}"}
        self._file, self._copy = file, file.with_suffix(".backup")
        self.keys = keys
        self.minutes = 9

    @contextlib.contextmanager
    def node(self) -> Iterator[Keeper]:
        # Each node is there a minute after the one before, and the last one now.
        behind = 60 * self.minutes
        self.minutes = max(self.minutes - 1, 0)
        given = {} if self.keys is None else {"keys": self.keys}
        settings = Settings.from_env(
            self._environ, rotate_in_process=False, clock=lambda: time.time() - behind, **given
        )
        keeper = Keeper(settings)
        yield keeper
        keeper.deployment.close()

    def sign_in(self, name: str) -> Browser:
        with self.node() as keeper:
            browser = Browser(keeper)
            browser.visit(lambda session: setattr(session, "subject", name))
        return browser

    def subject(self, jar: Jar) -> str | None:
        """Who is signed in by the cookies of a jar."""
        with self.node() as keeper:
            return Browser(keeper, jar).session().subject

    def back_up(self) -> None:
        shutil.copy(self._file, self._copy)

    def restore(self) -> None:
        shutil.copy(self._copy, self._file)


def come_back_after_a_restore(site: Site) -> list[Jar]:
    """Cookies of sessions that ended after the backup, and that the restore brought back."""
    alice, bob = site.sign_in("alice"), site.sign_in("bob")
    copied = [alice.jar.copy(), bob.jar.copy()]
    site.back_up()
    with site.node() as keeper:
        alice.keeper = keeper
        alice.visit(lambda session: session.invalidate())
        keeper.revoke_subject("bob")
    assert [site.subject(jar) for jar in copied] == [None, None]
    site.restore()
    assert [site.subject(jar) for jar in copied] == ["alice", "bob"]
    return copied


def test_sessions_that_a_restore_brought_back_end_with_the_remedy(
    place: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place.create(age=HOUR)
    monkeypatch.setenv("SEALEDSTATE_STORAGE", f"sqlite:{tmp_path / 'store.db'}")
    site = Site(place.environ, tmp_path / "store.db")
    copied = come_back_after_a_restore(site)
    assert "is revoked" in output(*REMEDY)
    assert f"sealedstate {' '.join(REMEDY)}" in (DOCS / "stores.md").read_text("utf-8")
    assert [site.subject(jar) for jar in copied] == [None, None]
    # Whoever signs in afterwards stays signed in.
    site.minutes = 0
    time.sleep(1)
    assert site.subject(site.sign_in("carol").jar) == "carol"


def test_new_keys_end_the_sessions_that_a_restore_brought_back_where_there_is_no_ring(
    tmp_path: Path,
) -> None:
    old, new = ([Key.generate(os.urandom).export()] for _ in range(2))
    lookup = export_lookup(os.urandom(32))
    site = Site({}, tmp_path / "store.db", [*old, lookup])
    copied = come_back_after_a_restore(site)
    site.keys = [*new, lookup]
    assert [site.subject(jar) for jar in copied] == [None, None]
    site.minutes = 0
    assert site.subject(site.sign_in("carol").jar) == "carol"

"""A row opens for its own place and version only, also in a store that its owner tampers with.

In the second half the owner of a SQLite file reads and writes it directly.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import Keeper, Key, Session
from sealedstate._stored.parts import CONTEXT
from sealedstate._stored.revocations import SESSIONS, SUBJECTS
from sealedstate._wire.encoding import to_text
from sealedstate.errors import UnreadableError
from sealedstate.keyring import Keyring
from sealedstate.session import id_bytes
from sealedstate.storage import SQLiteStorage, Stored
from sealedstate.storage.contract import LAST_VERSION
from tests.support.jar import RING, Browser, Clock, keeper
from tests.support.shop import signed_in
from tests.support.stored import Rows

NOW = 1_800_000_000
NEXT_KEY = Key.generate(os.urandom)
NAMES = st.text(max_size=12)
VERSIONS = st.integers(0, LAST_VERSION)


def opens(rows: Rows, context: str, key: str, stored: Stored, ring: Keyring = RING) -> bytes | None:
    try:
        return rows.open_row(context, key, stored, ring, NOW)
    except UnreadableError:
        return None


# --- one row ------------------------------------------------------------------------------------


@given(NAMES, NAMES, NAMES, VERSIONS, st.binary(max_size=40))
def test_value_opens_at_the_row_that_it_was_sealed_for(
    realm: str, context: str, key: str, version: int, data: bytes
) -> None:
    rows = Rows(realm, os.urandom)
    value = rows.seal_row(context, key, version, data, RING, NOW)
    assert opens(rows, context, key, Stored(value, version, None)) == data


PLACES = st.tuples(NAMES, NAMES, NAMES, VERSIONS)


@given(PLACES, PLACES)
def test_value_opens_in_no_other_realm_context_key_or_version(
    place: tuple[str, str, str, int], other: tuple[str, str, str, int]
) -> None:
    # Each combination of the fields of the other place.
    mixed = [
        tuple(other[at] if at in taken else place[at] for at in range(4))
        for size in range(1, 5)
        for taken in itertools.combinations(range(4), size)
    ]
    realm, context, key, version = place
    value = Rows(realm, os.urandom).seal_row(context, key, version, b"v", RING, NOW)
    for elsewhere in mixed:
        found = opens(
            Rows(str(elsewhere[0]), os.urandom),
            str(elsewhere[1]),
            str(elsewhere[2]),
            Stored(value, int(elsewhere[3]), None),
        )
        assert (found is not None) is (elsewhere == place)


@pytest.mark.parametrize("version", [-1, -(2**63), LAST_VERSION + 1, 2**64])
def test_version_out_of_range_is_refused(version: int) -> None:
    rows = Rows("default", os.urandom)
    value = rows.seal_row("c", "k", 1, b"v", RING, NOW)
    assert opens(rows, "c", "k", Stored(value, version, None)) is None


def test_each_refused_row_is_reported_and_no_other() -> None:
    reported: list[tuple[str, str]] = []
    rows = Rows("default", os.urandom, lambda *refused: reported.append(refused))
    value = rows.seal_row("c", "k", 1, b"v", RING, NOW)
    for stored in (Stored(value, 1, None), Stored(value, 2, None), Stored(b"junk", 1, None)):
        opens(rows, "c", "k", stored)
    opens(rows, "c", "k", Stored(value, 1, None), Keyring((NEXT_KEY,)))
    assert reported == [("c", "tag"), ("c", "malformed"), ("c", "kid-unknown")]


class Owner:
    """The owner of the file of a SQLite store."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self, context: str) -> dict[bytes, tuple[bytes, int]]:
        """Value and version by key."""
        sql = "SELECT key, value, version FROM sealedstate_record WHERE context = ?"
        with self._connected() as connection:
            found = connection.execute(sql, (context.encode(),)).fetchall()
        return {key: (value, version) for key, value, version in found}

    def put(self, context: str, key: bytes, value: bytes, version: int) -> None:
        """Make an existing row hold exactly this."""
        sql = "UPDATE sealedstate_record SET value = ?, version = ? WHERE context = ? AND key = ?"
        with self._connected() as connection:
            row = (value, version, context.encode(), key)
            assert connection.execute(sql, row).rowcount == 1

    def everything(self) -> bytes:
        """All bytes of the store, also those beside the file."""
        return b"".join(path.read_bytes() for path in self.path.parent.glob(f"{self.path.name}*"))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        # As a context manager, a connection commits but does not close.
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            yield connection


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(tmp_path / "store.sqlite")


@pytest.fixture
def shop(owner: Owner, clock: Clock) -> Iterator[Keeper]:
    """A node that keeps its store in the owner's file."""
    with contextlib.closing(SQLiteStorage(owner.path, clock)) as store:
        yield keeper(
            clock, storage=store, part_policies={"vault": "server"}, accept_weak_store_for=[]
        )


def key_of(owner: Owner, context: str, make: Callable[[], object]) -> bytes:
    """The key of the one row that `make` creates."""
    before = owner.rows(context).keys()
    make()
    (key,) = owner.rows(context).keys() - before
    return key


def test_refused_row_is_counted_and_logged_without_a_secret(
    shop: Keeper, owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    browser = signed_in(shop, "canary", vault="canary")
    captured = Browser(shop, browser.jar.copy())
    other = signed_in(shop, "canary")
    revoked = key_of(owner, SESSIONS, lambda: browser.visit(Session.invalidate))
    shop.revoke_subject("another")  # leaves the mark of the lookup key, too
    watermark = key_of(owner, SUBJECTS, lambda: shop.revoke_subject("canary"))
    owner.put(SESSIONS, revoked, b"\1" * 60, 1)
    owner.put(SUBJECTS, watermark, b"\1" * 60, 1)
    assert captured.session().withheld == "replaced"
    assert other.session().withheld == "store-down"
    assert shop.counts["row-refused-kid-unknown"] == 2
    for context in (SESSIONS, SUBJECTS):
        assert f"context={context} reason=kid-unknown" in caplog.text
    assert "canary" not in caplog.text


def test_store_holds_nothing_readable(shop: Keeper, owner: Owner, clock: Clock) -> None:
    subject, secret = f"subject-{os.urandom(8).hex()}", f"secret-{os.urandom(8).hex()}"
    values = {"vault": [secret] * 9, "large": secret * 400}
    ids = []
    for change in (Session.regenerate, Session.invalidate, len):
        browser = signed_in(shop, subject, **values)
        session = browser.session()
        assert dict(session) == values
        ids.append(id_bytes(session))
        browser.visit(change)
    shop.revoke_subject(subject)
    assert all(owner.rows(context) for context in (CONTEXT, SESSIONS, SUBJECTS))
    words = [*ids, *(word.encode() for word in (subject, secret, "vault", "large"))]
    words.append(int(clock.now).to_bytes(8, "big"))  # the time of the revocation
    written: list[Callable[[bytes], str | bytes]] = [
        lambda word: word,
        bytes.hex,
        to_text,
        base64.b64encode,
    ]
    for word, write in itertools.product(words, written):
        text = write(word)
        assert (text.encode() if isinstance(text, str) else text) not in owner.everything()

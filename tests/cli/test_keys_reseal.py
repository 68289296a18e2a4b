"""``sealedstate keys reseal`` and ``rotate --lasting``: no key goes that what is stored needs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealedstate import Key, Keyring
from sealedstate._stored.table import Rows
from sealedstate.keyring import export_lookup
from sealedstate.rotation.ring import Ring
from sealedstate.rotation.transitions import rotate, rotate_long_term
from sealedstate.sso import ConsentStore
from sealedstate.sso.deployment import SsoDeployment
from sealedstate.storage import open_storage
from tests.support.ring_cli import DAY, DEFAULT, Desk, Told, as_json, finding, keys, wrong_usage


@pytest.fixture
def url(place: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The store of the configuration that the environment names."""
    url = place.environ.get("SEALEDSTATE_STORAGE", f"sqlite:{tmp_path / 'consents.db'}")
    monkeypatch.setenv("SEALEDSTATE_STORAGE", url)
    return url


@contextmanager
def consents(url: str, ring: Keyring, realm: str = "default") -> Iterator[ConsentStore]:
    with closing(open_storage(url, time.time)) as store:
        yield ConsentStore(SsoDeployment(store, Rows(realm, os.urandom), lambda: ring, 60))


def agree(url: str, ring: Keyring, at: float, count: int = 3, realm: str = "default") -> None:
    with consents(url, ring, realm) as store:
        for number in range(count):
            store.record(f"user {number}", "terms", 1, at)


def agreed(url: str, ring: Keyring, count: int = 3) -> bool:
    with consents(url, ring) as store:
        return all(
            store.has_accepted(f"user {number}", "terms", 1, time.time()) for number in range(count)
        )


def with_two(place: Desk, url: str) -> Ring:
    """A ring whose second lasting key has sealed for a day, and what its first one sealed."""
    now = int(time.time())
    ring = place.found(3 * DAY)
    agree(url, ring.keyring(), now - 3 * DAY)
    ring = rotate_long_term(ring, now - DAY - 3600, os.urandom)
    return place.put(replace(rotate(ring, DEFAULT, now - 60, os.urandom), sequence=7))


def lasting(place: Desk) -> list[str]:
    return [key.kid.hex() for key in place.ring().long_term]


def test_what_the_old_key_sealed_is_sealed_anew_and_then_it_can_be_destroyed(
    place: Desk, url: str, capsys: Told
) -> None:
    with_two(place, url)
    new, old = lasting(place)
    assert keys("reseal") == 0
    assert capsys.readouterr().out == (
        "3 values are stored for years; 3 of them sealed anew.\n"
        f"{new} seals 3, and whatever comes.\n"
        f"{old} is needed by nothing in this store: `--destroy` destroys it. If the ring serves"
        " other applications or stores, too, sweep those before.\n"
    )
    assert lasting(place) == [new, old]
    assert keys("reseal", "--destroy", "--json") == 0
    assert as_json(capsys) == {
        "values": 3,
        "resealed": 0,
        "needed": {new: 3},
        "unreadable": {},
        "free": [],
        "destroyed": [old],
    }
    assert lasting(place) == [new]
    assert agreed(url, place.ring().keyring())
    assert keys("check", "--json") in (0, 1)
    assert "lasting-key" not in capsys.readouterr().out


def test_a_key_that_something_unreadable_names_is_not_destroyed(
    place: Desk, url: str, capsys: Told
) -> None:
    ring = with_two(place, url)
    new, old = lasting(place)
    agree(url, ring.keyring(), time.time() - 3 * DAY, 1, realm="another application")
    assert keys("reseal", "--destroy", "--json") == 1
    told = as_json(capsys)
    assert told["needed"] == {new: 3, old: 1}
    assert told["unreadable"] == {"tag": 1}
    assert lasting(place) == [new, old]
    assert keys("reseal") == 1
    assert "1 value does not open here (tag), and stayed" in capsys.readouterr().out


def test_a_key_by_which_a_late_node_may_still_seal_is_not_destroyed(
    place: Desk, url: str, capsys: Told
) -> None:
    place.found(3 * DAY)
    place.put(rotate_long_term(place.ring(), int(time.time()) - 1000, os.urandom))
    before = lasting(place)
    assert len(before) == 2
    assert keys("reseal", "--destroy") == 0
    assert lasting(place) == before
    assert "destroy" not in capsys.readouterr().out


def test_another_lasting_key_is_announced_once(place: Desk, url: str, capsys: Told) -> None:
    place.found()
    assert keys("rotate", "--lasting") == 0
    new, old = lasting(place)
    told = capsys.readouterr().out
    assert told.startswith(f"{new} is announced; it seals what is stored for years from ")
    assert "`sealedstate keys reseal`" in told
    assert keys("rotate", "--lasting") == 0
    assert capsys.readouterr().out.startswith(f"{new} is announced already; ")
    assert lasting(place) == [new, old]
    assert keys("list", "--json") == 0
    listed = as_json(capsys)["lasting"]
    assert [(key["kid"], key["state"]) for key in listed] == [(new, "pending"), (old, "primary")]


def test_check_and_list_know_of_a_lasting_key_that_is_over(
    place: Desk, url: str, capsys: Told
) -> None:
    with_two(place, url)
    new, old = lasting(place)
    assert keys("check", "--json") == 1
    found = [one for one in as_json(capsys)["findings"] if one["about"] == "lasting-key"]
    assert [one["subject"] for one in found] == [old]
    assert keys("list") == 0
    shown = capsys.readouterr().out
    assert f"{new}  primary" in shown
    assert f"{old}  retired" in shown


def test_a_ring_of_before_is_told_to_get_a_lasting_key(place: Desk, capsys: Told) -> None:
    place.put(replace(place.found(), long_term=(), sequence=2))
    assert keys("check", "--json") == 1
    (found,) = as_json(capsys)["findings"]
    assert found["about"] == "lasting-key"
    assert "keys rotate --lasting" in found["sentence"]


def test_a_lasting_key_is_neither_revoked_nor_disabled_with_what_it_sealed(
    place: Desk, capsys: Told
) -> None:
    place.found()
    (kid,) = lasting(place)
    for action in ("revoke", "disable"):
        assert "would be lost with it" in wrong_usage(capsys, action, kid)


def test_keys_that_stand_one_a_line_are_swept_too(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    old, new = (Key.generate(os.urandom) for _ in range(2))
    lookup = os.urandom(32)
    agree(url, Keyring((old,), lookup=lookup), time.time())
    lines = [new.export(), old.export(), export_lookup(lookup)]
    monkeypatch.setenv("SEALEDSTATE_KEYS", " ".join(lines))
    assert keys("reseal") == 0
    assert f"{new.kid.hex()} seals 3, and whatever comes." in capsys.readouterr().out
    assert agreed(url, Keyring((new,), lookup=lookup))
    assert "--destroy is for a ring" in wrong_usage(capsys, "reseal", "--destroy")


def test_without_a_store_there_is_nothing_to_sweep(file: Desk, capsys: Told) -> None:
    file.found()
    assert "no `storage` is set" in wrong_usage(capsys, "reseal")


def test_a_store_that_is_down_stops_the_sweep_and_nothing_is_destroyed(
    file: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    file.found()
    monkeypatch.setenv("SEALEDSTATE_STORAGE", "redis://127.0.0.1:1/0")
    assert finding(capsys, "reseal", "--destroy").endswith("; run it again\n")
    assert len(lasting(file)) == 1


def test_no_command_prints_a_lasting_secret(place: Desk, url: str, capsys: Told) -> None:
    ring = with_two(place, url)
    for command in (["list"], ["list", "--json"], ["check"], ["reseal"], ["rotate", "--lasting"]):
        keys(*command)
    out, err = capsys.readouterr()
    secrets: Any = [key.secret.hex() for key in ring.long_term]
    secrets += [json.dumps(key.secret.decode("latin-1")) for key in ring.long_term]
    assert not [secret for secret in secrets if secret in out + err]

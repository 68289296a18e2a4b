"""``sealedstate keys reseal``, ``rotate --lasting`` and ``sealedstate consent``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sealedstate import Key
from sealedstate.keyring import Keyring, export_lookup
from sealedstate.rotation.ring import Ring
from sealedstate.rotation.transitions import rotate, rotate_long_term
from sealedstate.sso import ConsentStore
from sealedstate.storage import open_storage
from tests.support.identity_providers import deployment
from tests.support.ring_cli import DAY, DEFAULT, Desk, finding, keys_json, output, run, usage_error


@pytest.fixture
def url(place: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The store of the configuration that the environment names."""
    url = place.environ.get("SEALEDSTATE_STORAGE", f"sqlite:{tmp_path / 'consents.db'}")
    monkeypatch.setenv("SEALEDSTATE_STORAGE", url)
    return url


@contextmanager
def consents(
    url: str, ring: Keyring, realm: str = "default", at: float | None = None
) -> Iterator[ConsentStore]:
    clock = time.time if at is None else lambda: at
    with closing(open_storage(url, time.time)) as store:
        yield ConsentStore(deployment(store, ring, clock, realm))


def agree(url: str, ring: Keyring, at: float, count: int = 3, realm: str = "default") -> None:
    with consents(url, ring, realm, at) as store:
        for number in range(count):
            store.record(f"user {number}", "terms", 1)


def has_agreed(url: str, ring: Keyring, count: int = 3) -> bool:
    with consents(url, ring) as store:
        return all(store.has_accepted(f"user {number}", "terms", 1) for number in range(count))


def with_two(place: Desk, url: str) -> Ring:
    """A ring whose second long-term key is active for a day, and values of its first one."""
    now = int(time.time())
    ring = place.create(3 * DAY)
    agree(url, ring.keyring(), now - 3 * DAY)
    ring = rotate_long_term(ring, now - DAY - 3600, os.urandom)
    return place.put(replace(rotate(ring, DEFAULT, now - 60, os.urandom), sequence=7))


def long_term(place: Desk) -> list[str]:
    return [key.kid.hex() for key in place.ring().long_term]


def test_values_are_re_encrypted_and_then_the_old_key_can_be_destroyed(
    place: Desk, url: str
) -> None:
    with_two(place, url)
    new, old = long_term(place)
    first, *others = output("keys", "reseal").splitlines()
    assert first == "3 long-lived values, 3 of them re-encrypted."
    assert [line.split()[0] for line in others] == [new, old]
    assert "`--destroy` destroys it" in others[1]
    assert long_term(place) == [new, old]
    assert keys_json("reseal", "--destroy") == {
        "values": 3,
        "resealed": 0,
        "needed": {new: 3},
        "unreadable": {},
        "free": [],
        "destroyed": [old],
    }
    assert long_term(place) == [new]
    assert has_agreed(url, place.ring().keyring())
    assert "lasting-key" not in run("keys", "check").out


def test_key_that_an_unreadable_value_names_is_not_destroyed(place: Desk, url: str) -> None:
    ring = with_two(place, url)
    new, old = long_term(place)
    agree(url, ring.keyring(), time.time() - 3 * DAY, 1, realm="another application")
    result = keys_json("reseal", "--destroy", code=1)
    assert result["needed"] == {new: 3, old: 1}
    assert result["unreadable"] == {"tag": 1}
    assert long_term(place) == [new, old]
    assert "1 value does not open here (tag)" in run("keys", "reseal").out


def test_key_that_a_lagging_node_may_still_use_is_not_destroyed(place: Desk, url: str) -> None:
    place.create(3 * DAY)
    place.put(rotate_long_term(place.ring(), int(time.time()) - 1000, os.urandom))
    before = long_term(place)
    assert len(before) == 2
    assert "destroy" not in output("keys", "reseal", "--destroy")
    assert long_term(place) == before


def test_another_long_term_key_is_announced_once(place: Desk) -> None:
    place.create()
    text = output("keys", "rotate", "--lasting")
    new, old = long_term(place)
    assert text.startswith(f"{new} is announced and seals long-lived values from ")
    assert "`sealedstate keys reseal`" in text
    assert keys_json("rotate", "--lasting")["changed"] is False
    assert output("keys", "rotate", "--lasting").startswith(f"{new} is already announced and seals")
    assert long_term(place) == [new, old]
    listed = keys_json("list")["lasting"]
    assert [(key["kid"], key["state"]) for key in listed] == [(new, "pending"), (old, "primary")]
    assert "exclude each other" in usage_error("keys", "rotate", "--lasting", "--now")


def test_check_and_list_show_an_obsolete_or_missing_long_term_key(place: Desk, url: str) -> None:
    with_two(place, url)
    new, old = long_term(place)
    found = keys_json("check", code=1)["findings"]
    assert [each["subject"] for each in found if each["about"] == "lasting-key"] == [old]
    shown = [line.split()[:2] for line in output("keys", "list").splitlines() if line]
    assert [new, "primary"] in shown
    assert [old, "retired"] in shown
    place.put(replace(place.ring(), long_term=(), sequence=9))
    (sentence,) = [
        each["sentence"]
        for each in keys_json("check", code=1)["findings"]
        if each["about"] == "lasting-key"
    ]
    assert "keys rotate --lasting" in sentence


def test_long_term_key_is_neither_revoked_nor_disabled(place: Desk) -> None:
    place.create()
    (kid,) = long_term(place)
    for action in ("revoke", "disable"):
        assert "would be lost with it" in usage_error("keys", action, kid)


def test_keys_one_per_line_are_swept_too(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (Key.generate(os.urandom) for _ in range(2))
    lookup = os.urandom(32)
    agree(url, Keyring((old,), lookup=lookup), time.time())
    lines = [new.export(), old.export(), export_lookup(lookup)]
    monkeypatch.setenv("SEALEDSTATE_KEYS", " ".join(lines))
    assert f"{new.kid.hex()} seals 3 values, and new values." in output("keys", "reseal")
    assert has_agreed(url, Keyring((new,), lookup=lookup))
    assert "--destroy needs a ring" in usage_error("keys", "reseal", "--destroy")


def test_reseal_needs_a_store_that_answers(file: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    file.create()
    assert "such values are in a store" in usage_error("keys", "reseal")
    monkeypatch.setenv("SEALEDSTATE_STORAGE", f"sqlite:{file.path.parent / 'no' / 'store.db'}")
    assert "the store cannot be used: " in finding("keys", "reseal", "--destroy")
    assert len(long_term(file)) == 1


ANN, SP = "ann", "https://sp.example.org/shibboleth"


@pytest.fixture
def kept(place: Desk, url: str) -> str:
    """A store with three consents of one user, under the ring of the environment."""
    ring = place.create()
    now = int(time.time())
    with consents(url, ring.keyring()) as store:
        store.record(ANN, "terms", 3, parameters={"fee": 10}, answers={"news": True, "why": "a\nb"})
        store.record(ANN, "attributes", 1, now + 86400, SP, ["mail", "name"])
        store.record(ANN, "attributes", 1, None, SP + "2")
        store.record("bob", "terms", 1)
    return url


def test_everything_a_user_agreed_to_is_listed(kept: str) -> None:
    lines = output("consent", "list", ANN).splitlines()
    assert [line.split(", given")[0] for line in lines] == ["attributes 1"] * 2 + ["terms 3"]
    assert lines[0].endswith(f", for {SP}, with mail, name")
    listed = run("consent", "list", ANN, "--json").json
    assert [one["service"] for one in listed] == [SP, SP + "2", None]
    assert listed[0]["attributes"] == ["mail", "name"]
    assert [listed[0][name] for name in ("parameters", "answers")] == [{}, {}]
    assert lines[2].endswith(", shown fee=10, entered news=True, why=a\\nb")
    assert listed[2]["parameters"] == {"fee": 10}
    assert listed[2]["answers"] == {"news": True, "why": "a\nb"}
    assert output("consent", "list", "nobody") == "None.\n"


def test_one_consent_is_withdrawn_or_all_of_one_user(kept: str) -> None:
    withdraw = ["consent", "withdraw", ANN, "--json"]
    for arguments, count in (
        (["--document", "attributes", "--service", SP], 1),
        (["--document", "attributes"], 0),
        ([], 2),
        ([], 0),
    ):
        assert run(*withdraw, *arguments).json == {"withdrawn": count}
    assert len(run("consent", "list", "bob", "--json").json) == 1
    assert output("consent", "withdraw", "bob") == "1 consent was withdrawn.\n"


def test_wrong_usage_and_a_store_that_is_down_are_reported(
    file: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.create()
    monkeypatch.setenv("SEALEDSTATE_STORAGE", f"sqlite:{file.path}.db")
    assert "--service needs --document" in usage_error("consent", "withdraw", ANN, "--service", SP)
    assert "surrogate" in usage_error("consent", "list", "\ud800")
    nowhere = f"sqlite:{file.path.parent / 'missing' / 'x.db'}"
    monkeypatch.setenv("SEALEDSTATE_STORAGE", nowhere)
    assert "the store cannot be used" in finding("consent", "list", ANN)
    assert "unusable" in run("consent", "list", ANN, "--json").json

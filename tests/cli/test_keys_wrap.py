"""``sealedstate keys wrap``, as an operator runs it who began without a key that wraps."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace

import pytest

from sealedstate import Keeper, OperatorError, Settings
from sealedstate.deployment import open_ring_storage
from sealedstate.keyring import Key, secret_to_text
from sealedstate.rotation.document import RingUnreadable
from sealedstate.rotation.ring import Ring
from tests.support.jar import Browser
from tests.support.ring_cli import DAY, KEK, Desk, Told, as_json, finding, keys, wrong_usage


def files(desk: Desk) -> dict[str, str]:
    """What stands in the files of a ring, by name."""
    return {path.name: path.read_text() for path in desk.path.parent.glob("keys.json*")}


def secrets_of(ring: Ring) -> set[str]:
    assert ring.lookup is not None
    return {secret_to_text(secret) for secret in (*(key.secret for key in ring.keys), ring.lookup)}


@pytest.fixture
def kek(file: Desk, monkeypatch: pytest.MonkeyPatch) -> str:
    """A key that wraps, which is set after a ring was made without one."""
    file.found(age=3 * DAY)
    assert keys("rotate", "--now") == 0
    monkeypatch.setenv("SEALEDSTATE_KEK", KEK)
    return KEK


def wrapped_ring(desk: Desk, kek: str) -> Ring:
    """The ring as a process reads it that has the key."""
    settings = Settings.from_env(desk.environ | {"SEALEDSTATE_KEK": kek})
    ring = open_ring_storage(settings).load()
    assert ring is not None
    return ring


def test_no_secret_is_left_in_any_file_and_none_has_changed(
    file: Desk, kek: str, capsys: Told
) -> None:
    before = file.ring()
    assert all(secret in files(file)["keys.json"] for secret in secrets_of(before))
    assert keys("wrap") == 0
    told = capsys.readouterr().out
    left = [
        (name, secret)
        for name, text in files(file).items()
        for secret in secrets_of(before)
        if secret in text
    ]
    assert left == []
    assert not any(secret in told for secret in {*secrets_of(before), kek.rpartition(":")[2]})
    after = wrapped_ring(file, kek)
    assert after == replace(before, sequence=after.sequence, updated_at=after.updated_at)
    assert after.sequence > before.sequence
    assert json.loads(files(file)["keys.json"])["wrapped_by"] == Key.parse(kek).kid.hex()


def test_a_session_goes_on_and_rotation_too(file: Desk, kek: str) -> None:
    clear = Settings.from_env(file.environ, rotate_in_process=False)
    browser = Browser(Keeper(clear))
    browser.visit(lambda session: session.__setitem__("cart", ["tea"]))
    assert keys("wrap") == 0
    assert keys("rotate", "--now") == 0
    environ = file.environ | {"SEALEDSTATE_KEK": kek}
    browser.keeper = Keeper(Settings.from_env(environ, rotate_in_process=False))
    assert browser.session()["cart"] == ["tea"]


def test_a_process_without_the_key_goes_on_and_does_not_put_its_ring_back(
    file: Desk, kek: str
) -> None:
    process = file.node()
    good = process.ring
    assert keys("wrap") == 0
    for _ in range(2):
        process.run_once()
    assert process.ring is good
    assert process.keyring().primary(int(time.time())) is not None
    assert "not set here" in (process.last_error or "")
    assert wrapped_ring(file, kek).sequence > good.sequence
    with pytest.raises(OperatorError):
        file.node()


def test_what_is_wrapped_is_wrapped_anew_by_the_first_key(
    file: Desk, kek: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keys("wrap") == 0
    assert keys("wrap") == 0
    new = Key.generate(os.urandom).export()
    monkeypatch.setenv("SEALEDSTATE_KEK", f"{new} {kek}")
    assert keys("wrap") == 0
    assert wrapped_ring(file, new).lookup == wrapped_ring(file, new).lookup
    with pytest.raises(RingUnreadable):
        wrapped_ring(file, kek)


def test_as_json_it_tells_the_ring(file: Desk, kek: str, capsys: Told) -> None:
    capsys.readouterr()
    assert keys("wrap", "--json") == 0
    ring = wrapped_ring(file, kek)
    assert as_json(capsys) == {
        "where": file.home.location,
        "changed": True,
        "ring": ring.ring_id,
        "sequence": ring.sequence,
    }


def test_where_a_key_is_set_a_ring_in_clear_is_refused_by_all_else_with_the_remedy(
    file: Desk, kek: str, capsys: Told
) -> None:
    for command in ("list", "rotate"):
        assert "`sealedstate keys wrap` wraps it" in finding(capsys, command)


def test_a_ring_of_another_is_not_wrapped(file: Desk, kek: str, capsys: Told) -> None:
    text = files(file)["keys.json"]
    file.path.unlink()
    (file.path.parent / "keys.json.lock").unlink()
    assert keys("init") == 0
    file.path.write_text(text)
    assert "restore that ring" in finding(capsys, "wrap")
    assert file.path.read_text() == text


def test_without_a_key_or_without_a_file_there_is_nothing_to_wrap(
    place: Desk, capsys: Told
) -> None:
    if place.keys == "store:":
        assert "always wrapped" in wrong_usage(capsys, "wrap")
    elif "SEALEDSTATE_KEK" not in place.environ:
        assert "SEALEDSTATE_KEK is not set" in wrong_usage(capsys, "wrap")
    else:
        assert "there is no ring at" in finding(capsys, "wrap")

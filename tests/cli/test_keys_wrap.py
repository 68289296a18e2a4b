"""``sealedstate keys wrap``, for an operator who began without a key that wraps."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace

import pytest

from sealedstate import Keeper, OperatorError, Settings
from sealedstate.deployment import open_ring_storage
from sealedstate.keyring import Key
from sealedstate.rotation.document import RingUnreadable
from sealedstate.rotation.ring import Ring
from tests.support.jar import Browser
from tests.support.ring_cli import DAY, KEK, Desk, finding, keys_json, output, run, usage_error


def texts(desk: Desk) -> dict[str, str]:
    """The text of each file of a ring, by name."""
    return {path.name: path.read_text() for path in desk.path.parent.glob("keys.json*")}


@pytest.fixture
def plain(file: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A ring that was created and rotated before a key that wraps was set."""
    file.create(age=3 * DAY)
    assert run("keys", "rotate", "--now").code == 0
    monkeypatch.setenv("SEALEDSTATE_KEK", KEK)
    return file


def load_wrapped(desk: Desk, kek: str = KEK) -> Ring:
    """The ring as a process with this key reads it."""
    settings = Settings.from_env(desk.environ | {"SEALEDSTATE_KEK": kek})
    ring = open_ring_storage(settings).load()
    assert ring is not None
    return ring


def test_wrap_leaves_no_plain_secret_in_any_file_and_changes_none(plain: Desk) -> None:
    before, secrets = plain.ring(), plain.secrets()
    assert len([secret for secret in secrets if secret in texts(plain)["keys.json"]]) >= 4
    text = output("keys", "wrap")
    everything = [text, *texts(plain).values()]
    assert not [secret for secret in secrets if any(secret in each for each in everything)]
    after = load_wrapped(plain)
    assert after == replace(before, sequence=after.sequence, updated_at=after.updated_at)
    assert after.sequence > before.sequence
    assert json.loads(texts(plain)["keys.json"])["wrapped_by"] == Key.parse(KEK).kid.hex()
    result = keys_json("wrap")
    assert result == {
        "where": plain.storage.location,
        "changed": False,  # it is wrapped already
        "ring": after.ring_id,
        "sequence": after.sequence,
    }


def test_sessions_and_rotation_continue_after_wrapping(plain: Desk) -> None:
    browser = Browser(Keeper(Settings.from_env(plain.environ, rotate_in_process=False)))
    browser.visit(lambda session: session.__setitem__("cart", ["tea"]))
    assert run("keys", "wrap").code == 0
    assert run("keys", "rotate", "--now").code == 0
    environ = plain.environ | {"SEALEDSTATE_KEK": KEK}
    browser.keeper = Keeper(Settings.from_env(environ, rotate_in_process=False))
    assert browser.session()["cart"] == ["tea"]


def test_process_without_the_key_continues_and_does_not_put_its_ring_back(plain: Desk) -> None:
    process = plain.node()
    good = process.ring
    assert run("keys", "wrap").code == 0
    for _ in range(2):
        process.run_once()
    assert process.ring is good
    assert process.keyring().primary(int(time.time())) is not None
    assert "not set here" in (process.last_error or "")
    assert load_wrapped(plain).sequence > good.sequence
    with pytest.raises(OperatorError):
        plain.node()


def test_wrapped_ring_is_wrapped_again_by_the_first_key(
    plain: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("keys", "wrap").code == 0
    new = Key.generate(os.urandom).export()
    monkeypatch.setenv("SEALEDSTATE_KEK", f"{new} {KEK}")
    assert run("keys", "wrap").code == 0
    load_wrapped(plain, new)
    with pytest.raises(RingUnreadable):
        load_wrapped(plain, KEK)


def test_other_commands_refuse_a_plaintext_ring_with_the_remedy(plain: Desk) -> None:
    for command in ("list", "rotate"):
        assert "`sealedstate keys wrap` wraps it" in finding("keys", command)


def test_ring_that_is_not_the_last_one_is_not_wrapped(plain: Desk) -> None:
    text = texts(plain)["keys.json"]
    plain.path.unlink()
    (plain.path.parent / "keys.json.lock").unlink()
    assert run("keys", "init").code == 0
    plain.path.write_text(text)
    assert "restore that ring" in finding("keys", "wrap")
    assert plain.path.read_text() == text


def test_wrap_needs_a_file_and_a_key(place: Desk) -> None:
    if place.keys == "store:":
        assert "always wrapped" in usage_error("keys", "wrap")
    elif "SEALEDSTATE_KEK" not in place.environ:
        assert "SEALEDSTATE_KEK is not set" in usage_error("keys", "wrap")
    else:
        assert "does not exist" in finding("keys", "wrap")

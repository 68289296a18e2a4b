"""``sealedstate keys check``: what is wrong with a ring, its place and clocks, and what to do."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sealedstate.keyring import Key
from sealedstate.rotation.ring import Schedule
from sealedstate.rotation.transitions import create_ring, disable, revoke, rotate
from tests.support.ring_cli import DAY, DEFAULT, HOUR, Desk, output, run, usage_error


def findings(*arguments: str) -> dict[tuple[str, str], str]:
    """The sentences by name; the text has the same findings as the JSON."""
    code, out, err = run("keys", "check", "--json", *arguments)
    found = json.loads(out)["findings"]
    assert (code, err) == (1 if found else 0, "")
    text = run("keys", "check", *arguments)
    assert (text.code, text.err) == (code, "")
    lines = [line for line in text.out.splitlines() if not line.startswith("not checked: ")]
    about = [line.split(":")[0] for line in lines if not line.endswith("nothing is wrong.")]
    assert about == [each["about"] for each in found]
    assert all(len(each["sentence"]) > 40 for each in found)
    return {(each["about"], each["subject"]): each["sentence"] for each in found}


def the_finding(about: str, *arguments: str) -> str:
    """The sentence of the only finding."""
    ((name, sentence),) = findings(*arguments).items()
    assert name[0] == about
    return sentence


# --- nothing is wrong ---------------------------------------------------------------------------


def test_new_ring_is_fine(place: Desk) -> None:
    assert run("keys", "init").code == 0
    assert findings() == {}
    location = place.storage.location
    assert output("keys", "check") == (
        f"{location}: sequence 1, no process reports, nothing is wrong.\n"
    )


def test_ring_that_processes_and_operators_use_is_fine(place: Desk) -> None:
    place.create(HOUR)
    place.node().run_once()
    assert findings() == {}
    assert "sequence 1, reports of 1 process on 1 node" in output("keys", "check")
    kid = place.kids()[0]
    for arguments in (["rotate", "--now"], ["revoke", "--before", "1h"], ["revoke", kid]):
        assert run("keys", *arguments).code == 0
    place.node().run_once()
    assert findings() == {}


def test_what_was_not_checked_is_printed(file: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    file.create(HOUR, replace(DEFAULT, keep=1))
    monkeypatch.delenv("SEALEDSTATE_KEYS")
    assert findings(str(file.path)) == {}
    promises, nodes = json.loads(output("keys", "check", str(file.path), "--json"))["unchecked"]
    assert "--config" in promises
    assert "rotate_in_process" in nodes


# --- no ring ------------------------------------------------------------------------------------


def test_missing_ring_is_found_with_the_command_that_creates_it(place: Desk) -> None:
    assert "`sealedstate keys init` creates it" in the_finding("ring")


def test_lost_or_damaged_ring_is_found_with_its_backup(file: Desk) -> None:
    file.create()
    whole = file.path.read_text()
    for content in ("", whole[:200], "[" * 99_999, whole.replace('"sequence": 1', '"sequence": 2')):
        file.path.write_text(content)
        assert "restore it from a backup" in the_finding("ring")
    file.path.unlink()
    sentence = the_finding("ring")
    assert "is gone: a running node puts it back, otherwise restore it from a backup" in sentence
    file.path.write_text(whole)
    assert run("keys", "rotate", "--now").code == 0
    file.path.unlink()
    assert f"restore it from {file.path}.prev or a backup" in the_finding("ring")
    file.path.touch(0o600)
    assert f"restore it from {file.path}.prev or a backup" in the_finding("ring")


def test_ring_of_another_kek_is_found(
    wrapped: Desk, file: Desk, stored: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (wrapped, stored):
        place.create()
    monkeypatch.setenv("SEALEDSTATE_KEK", Key.generate(os.urandom).export())
    for place in (wrapped, stored):
        sentence = the_finding("ring", "--keys", place.keys)
        assert "not set here" in sentence
        assert "SEALEDSTATE_KEK is not the key that wraps it" in sentence
    wrapped.path.unlink()
    Path(f"{wrapped.path}.lock").unlink()
    file.create()
    assert "is not wrapped" in the_finding("ring", "--keys", file.keys)


def test_store_that_is_down_or_unfit_is_found(
    stored: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"sqlite:{stored.path.parent / 'no' / 'store.db'}"
    monkeypatch.setenv("SEALEDSTATE_STORAGE", nowhere)
    sentence = the_finding("ring")
    assert "unable to open" in sentence
    assert "`sealedstate store check`" in sentence
    monkeypatch.setenv("SEALEDSTATE_STORAGE", "memory:")
    assert "forgets at a restart" in findings()["store", "memory"]


def test_other_thing_in_the_place_of_a_ring_is_found(file: Desk) -> None:
    file.path.mkdir()
    assert "not a regular file" in the_finding("ring")
    file.path.rmdir()
    file.path.symlink_to("nowhere")
    assert "symbolic link to nothing" in the_finding("ring")


# --- permissions --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".prev"])
def test_file_that_others_can_read_or_write_is_found(file: Desk, suffix: str) -> None:
    file.create()
    assert run("keys", "rotate", "--now").code == 0
    path = Path(f"{file.path}{suffix}")
    for mode, what in (
        (0o604, "readable by all users"),
        (0o602, "writable by all users"),
        (0o620, "writable by its group"),
    ):
        path.chmod(mode)
        sentence = the_finding("permissions")
        assert f"{path} is {what}" in sentence
        assert "chmod" in sentence
    path.chmod(0o640)
    assert findings() == {}


def test_wrapped_ring_may_be_readable(wrapped: Desk) -> None:
    wrapped.create()
    wrapped.path.chmod(0o604)
    assert findings() == {}


def test_directory_that_all_users_can_write_is_found(file: Desk) -> None:
    file.create()
    for mode in (0o777, 0o1777):
        file.path.parent.chmod(mode)
        assert "all users can put files into" in the_finding("permissions")
    file.path.parent.chmod(0o770)
    assert findings() == {}
    file.path.write_text("{")
    file.path.chmod(0o666)
    assert {about for about, _ in findings()} == {"permissions", "ring"}


# --- keys ---------------------------------------------------------------------------------------


def test_rotation_that_stopped_is_found(place: Desk) -> None:
    place.report(place.create(DAY + 600))
    assert findings() == {}
    place.put(replace(create_ring(DEFAULT, int(time.time()) - 3 * DAY, os.urandom), sequence=2))
    place.report(place.ring())
    sentence = the_finding("rotation")
    assert f"the newest key, {place.kids()[0]}, became active 3 d ago" in sentence
    assert "run `sealedstate keys rotate` from cron" in sentence
    assert run("keys", "rotate").code == 0
    assert findings() == {}


def test_rotation_every_second_is_fine(file: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule(1, 2, 43260, 60)
    monkeypatch.delenv("SEALEDSTATE_KEYS")
    ring, now = file.create(30, schedule), int(time.time())
    for age in range(29, -1, -1):
        ring = rotate(ring, schedule, now - age, os.urandom)
    file.put(ring)
    assert findings(str(file.path)) == {}


def test_ring_without_an_active_key_is_found(place: Desk) -> None:
    now = int(time.time())
    place.put(create_ring(DEFAULT, now + 600, os.urandom))
    sentence = findings()["primary", ""]
    assert "the first key activates in " in sentence
    assert "if the clock of this machine is right" in sentence
    ring = replace(create_ring(DEFAULT, now, os.urandom), sequence=2)
    place.put(replace(ring, keys=tuple(replace(key, disabled_at=now) for key in ring.keys)))
    assert "run `sealedstate keys rotate`, which adds one" in the_finding("primary")
    assert run("keys", "rotate").code == 0
    assert findings() == {}


def test_key_that_only_a_wrong_clock_can_have_made_is_found_and_can_be_revoked(
    place: Desk,
) -> None:
    ring = place.create(HOUR)
    place.put(rotate(ring, DEFAULT, int(time.time()) + 380 * DAY, os.urandom))
    found = findings()
    (kid,) = [subject for about, subject in found if about == "far-future"]
    assert f"run `sealedstate keys revoke {kid}`" in found["far-future", kid]
    assert "in 380 d" in found["far-future", kid]
    assert "in 380 d" in found["clock", "writer"] or "in 379 d" in found["clock", "writer"]
    assert "set both by NTP" in found["clock", "writer"]
    assert run("keys", "revoke", kid).code == 0
    place.report(place.ring())
    assert findings() == {}


# --- promises -----------------------------------------------------------------------------------


def test_configuration_that_promises_more_than_the_ring_is_found(
    place: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.create(HOUR)
    place.node().run_once()
    monkeypatch.setenv("SEALEDSTATE_ABSOLUTE_LIFETIME", "172800")
    monkeypatch.setenv("SEALEDSTATE_RELOAD_EVERY", "1200")
    found = findings()
    assert found.keys() == {("coverage", "announce"), ("coverage", "keep")}
    assert (
        "announce (900 s) must be at least reload_every (1200 s) + skew (60 s)"
        in (found["coverage", "announce"])
    )
    assert (
        "keep (43260 s) must be at least absolute_lifetime + skew (172860 s)"
        in (found["coverage", "keep"])
    )
    assert all("run `sealedstate keys rotate`" in sentence for sentence in found.values())
    assert run("keys", "rotate").code == 0
    assert findings() == {}
    monkeypatch.setenv("SEALEDSTATE_ANNOUNCE", "30")
    assert "set a longer announce" in the_finding("coverage")


# --- clocks -------------------------------------------------------------------------------------


def test_volume_with_another_clock_is_found(file: Desk) -> None:
    file.report(file.create(3 * HOUR))
    assert findings() == {}  # a ring may be copied later
    file.put(replace(file.ring(), sequence=2, updated_at=int(time.time())))
    for seconds, words in ((HOUR, "by the clock of its volume"), (-HOUR, "ahead of the volume's")):
        at = time.time() + seconds
        os.utime(file.path, (at, at))
        assert words in the_finding("clock")


def test_clocks_within_the_skew_are_fine(place: Desk) -> None:
    now = int(time.time()) + 30
    ring = revoke(place.create(HOUR), place.ring().keys[0].kid, now, os.urandom)
    place.put(disable(ring, ring.keys[0].kid, now, os.urandom))
    place.report(place.ring(), at=now)
    assert findings() == {}


@pytest.mark.parametrize(("name", "text"), [("RELOAD_EVERY", "x"), ("SKEW", "-1"), ("KEK", "x")])
def test_wrong_setting_is_wrong_usage(
    file: Desk, name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SEALEDSTATE_{name}", text)
    usage_error("keys", "check")

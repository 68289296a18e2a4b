"""``sealedstate keys check``: what is wrong with a ring, its place and clocks, and what to do."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealedstate.cli import main
from sealedstate.keyring import Key
from sealedstate.rotation.ring import Schedule
from sealedstate.rotation.transitions import create_ring, disable, revoke, rotate
from tests.support.ring_cli import DAY, DEFAULT, HOUR, Desk, desk

Told = pytest.CaptureFixture[str]


def findings(told: Told, *arguments: str) -> dict[tuple[str, str], str]:
    """What is found, by its name; and that both forms of it say the same."""
    told.readouterr()
    code = main(["keys", "check", "--json", *arguments])
    found = json.loads(told.readouterr().out)["findings"]
    assert code == (1 if found else 0)
    assert main(["keys", "check", *arguments]) == code
    text, err = told.readouterr()
    assert "Traceback" not in err
    for finding in found:
        assert f"{finding['about']}: " in text
        assert len(finding["sentence"]) > 40
    assert len([line for line in text.splitlines() if not is_beside(line)]) == len(found)
    return {(finding["about"], finding["subject"]): finding["sentence"] for finding in found}


def is_beside(line: str) -> bool:
    return line.startswith("not checked: ") or line.endswith("nothing is wrong.")


def the_finding(told: Told, about: str, *arguments: str) -> str:
    """The sentence of the only finding."""
    ((name, sentence),) = findings(told, *arguments).items()
    assert name[0] == about
    return sentence


# --- all is well --------------------------------------------------------------------------------


def test_a_ring_just_made_is_well(place: Desk, capsys: Told) -> None:
    assert main(["keys", "init"]) == 0
    assert findings(capsys) == {}
    assert main(["keys", "check"]) == 0
    assert capsys.readouterr().out == (
        f"{place.home.location}: sequence 1, no process reports, nothing is wrong.\n"
    )


def test_a_ring_that_processes_use_is_well(place: Desk, capsys: Told) -> None:
    place.found(HOUR)
    place.node().run_once()
    assert findings(capsys) == {}
    assert main(["keys", "check"]) == 0
    assert "sequence 1, reports of 1 process on 1 node" in capsys.readouterr().out


def test_what_people_did_to_a_ring_is_not_wrong(place: Desk, capsys: Told) -> None:
    ring = place.found(HOUR)
    for arguments in (["rotate", "--now"], ["revoke", "--before", "1h"]):
        assert main(["keys", *arguments]) == 0
    assert main(["keys", "revoke", ring.keys[0].kid.hex()]) == 0
    place.node().run_once()
    assert findings(capsys) == {}


def test_what_was_not_checked_is_said(
    file: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    file.found(HOUR, replace(DEFAULT, keep=1))
    monkeypatch.delenv("SEALEDSTATE_KEYS")
    assert findings(capsys, str(file.path)) == {}
    assert main(["keys", "check", str(file.path), "--json"]) == 0
    promises, nodes = json.loads(capsys.readouterr().out)["unchecked"]
    assert "--config" in promises
    assert "rotate_in_process" in nodes


# --- no ring ------------------------------------------------------------------------------------


def test_no_ring_is_found_with_the_command_that_makes_one(place: Desk, capsys: Told) -> None:
    assert "`sealedstate keys init` makes one" in the_finding(capsys, "ring")


def test_a_ring_that_is_gone_is_told_from_one_that_never_was(file: Desk, capsys: Told) -> None:
    file.found()
    file.path.unlink()
    told = the_finding(capsys, "ring")
    assert "is gone: a node that runs puts it back, else restore it from a backup" in told


def test_what_a_ring_can_be_restored_from_is_named(file: Desk, capsys: Told) -> None:
    file.found()
    assert main(["keys", "rotate", "--now"]) == 0
    file.path.unlink()
    assert f"restore it from {file.path}.prev or a backup" in the_finding(capsys, "ring")
    file.path.touch(0o600)
    assert f"restore it from {file.path}.prev or a backup" in the_finding(capsys, "ring")


def test_a_ring_that_was_altered_is_found(file: Desk, capsys: Told) -> None:
    file.found()
    whole = file.path.read_text()
    for content in ("", whole[:200], "[" * 99_999, whole.replace('"sequence": 1', '"sequence": 2')):
        file.path.write_text(content)
        assert "restore it from a backup" in the_finding(capsys, "ring")


def test_a_ring_that_is_wrapped_by_another_key_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    for kind in ("wrapped file", "store"):
        with desk(kind, tmp_path, monkeypatch) as place:
            place.found()
            monkeypatch.setenv("SEALEDSTATE_KEK", Key.generate(os.urandom).export())
            told = the_finding(capsys, "ring")
            assert "not set here" in told
            assert "the one that it was made with" in told


def test_a_ring_in_clear_under_a_key_that_wraps_is_found(
    file: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    file.found()
    monkeypatch.setenv("SEALEDSTATE_KEK", Key.generate(os.urandom).export())
    assert "is not wrapped" in the_finding(capsys, "ring")


def test_a_store_that_is_down_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    with desk("store", tmp_path, monkeypatch):
        monkeypatch.setenv("SEALEDSTATE_STORAGE", f"sqlite:{tmp_path / 'no' / 'store.db'}")
        told = the_finding(capsys, "ring")
        assert "unable to open" in told
        assert "`sealedstate store check`" in told


def test_what_is_in_the_place_of_a_ring_is_told(file: Desk, capsys: Told) -> None:
    file.path.mkdir()
    assert "not a regular file" in the_finding(capsys, "ring")
    file.path.rmdir()
    file.path.symlink_to("nowhere")
    assert "symbolic link to nothing" in the_finding(capsys, "ring")


# --- rights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".prev"])
def test_a_file_that_others_can_read_or_write_is_found(
    file: Desk, suffix: str, capsys: Told
) -> None:
    file.found()
    assert main(["keys", "rotate", "--now"]) == 0
    path = Path(f"{file.path}{suffix}")
    for mode, what in ((0o604, "read by everybody"), (0o602, "written by everybody")):
        path.chmod(mode)
        told = the_finding(capsys, "permissions")
        assert f"{path} can be {what}" in told
        assert "chmod" in told
    path.chmod(0o620)
    assert "written by its group" in the_finding(capsys, "permissions")
    path.chmod(0o640)
    assert findings(capsys) == {}


def test_who_may_read_a_wrapped_ring_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    with desk("wrapped file", tmp_path, monkeypatch) as place:
        place.found()
        place.path.chmod(0o604)
        assert findings(capsys) == {}


def test_a_directory_that_everybody_can_write_to_is_found(
    file: Desk, tmp_path: Path, capsys: Told
) -> None:
    file.found()
    for mode in (0o777, 0o1777):
        tmp_path.chmod(mode)
        assert "everybody can put files into" in the_finding(capsys, "permissions")
    tmp_path.chmod(0o770)
    assert findings(capsys) == {}


def test_rights_are_looked_at_even_where_the_ring_is_broken(file: Desk, capsys: Told) -> None:
    file.path.write_text("{")
    file.path.chmod(0o666)
    assert {about for about, _ in findings(capsys)} == {"permissions", "ring"}


def test_a_store_that_can_not_keep_a_ring_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    with desk("store", tmp_path, monkeypatch):
        monkeypatch.setenv("SEALEDSTATE_STORAGE", "memory:")
        told = findings(capsys)
        assert "forgets at a restart" in told["store", "memory"]


# --- keys ---------------------------------------------------------------------------------------


def test_rotation_that_stopped_is_found(place: Desk, capsys: Told) -> None:
    ring = place.found(3 * DAY)
    place.report(ring)
    told = the_finding(capsys, "rotation")
    assert f"the newest key, {ring.keys[0].kid.hex()}, seals since 3 d" in told
    assert "run `sealedstate keys rotate` from cron" in told
    assert main(["keys", "rotate"]) == 0
    assert findings(capsys) == {}


def test_a_key_that_is_a_little_late_is_not_found(place: Desk, capsys: Told) -> None:
    place.report(place.found(DAY + 600))
    assert findings(capsys) == {}


def test_rotation_every_second_is_well(
    file: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    schedule = Schedule(1, 2, 43260, 60)
    monkeypatch.delenv("SEALEDSTATE_KEYS")
    ring, now = file.found(30, schedule), int(time.time())
    for age in range(29, -1, -1):
        ring = rotate(ring, schedule, now - age, os.urandom)
    file.put(ring)
    assert findings(capsys, str(file.path)) == {}


def test_a_ring_none_of_whose_keys_may_seal_is_found(place: Desk, capsys: Told) -> None:
    now = int(time.time())
    ring = create_ring(DEFAULT, now, os.urandom)
    off = tuple(replace(key, disabled_at=now) for key in ring.keys)
    place.put(replace(ring, keys=off))
    assert "run `sealedstate keys rotate`, which adds one" in the_finding(capsys, "primary")
    assert main(["keys", "rotate"]) == 0
    assert findings(capsys) == {}


def test_a_ring_whose_first_key_is_still_to_come_is_found(place: Desk, capsys: Told) -> None:
    ring = place.found(-600)
    told = findings(capsys)["primary", ""]
    assert "the first one's turn comes in " in told
    assert "if this machine's clock is right" in told
    assert ring.keys[0].kid.hex() not in told


def test_a_key_that_only_a_wrong_clock_can_have_made_is_found_and_can_be_revoked(
    place: Desk, capsys: Told
) -> None:
    now = int(time.time())
    ring = place.found(HOUR)
    place.put(rotate(ring, DEFAULT, now + 380 * DAY, os.urandom))
    told = findings(capsys)
    (kid,) = [subject for about, subject in told if about == "far-future"]
    assert f"run `sealedstate keys revoke {kid}`" in told["far-future", kid]
    assert "in 380 d" in told["far-future", kid]
    assert "in 380 d" in told["clock", "writer"] or "in 379 d" in told["clock", "writer"]
    assert main(["keys", "revoke", kid]) == 0
    place.report(place.ring())
    assert findings(capsys) == {}


# --- promises -----------------------------------------------------------------------------------


def test_a_configuration_that_promises_more_than_the_ring_is_found_and_mended(
    place: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    place.found(HOUR)
    place.node().run_once()
    monkeypatch.setenv("SEALEDSTATE_ABSOLUTE_LIFETIME", "172800")
    monkeypatch.setenv("SEALEDSTATE_RELOAD_EVERY", "1200")
    told = findings(capsys)
    assert told.keys() == {("coverage", "announce"), ("coverage", "keep")}
    assert (
        "announce (900 s) must be at least reload_every (1200 s) + skew (60 s)"
        in (told["coverage", "announce"])
    )
    assert (
        "keep (43260 s) must be at least absolute_lifetime + skew (172860 s)"
        in told["coverage", "keep"]
    )
    assert all("run `sealedstate keys rotate`" in sentence for sentence in told.values())
    assert main(["keys", "rotate"]) == 0
    assert findings(capsys) == {}


def test_an_announcement_that_the_configuration_itself_makes_too_short_is_found(
    file: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    file.found()
    monkeypatch.setenv("SEALEDSTATE_ANNOUNCE", "30")
    told = the_finding(capsys, "coverage")
    assert "announce (30 s) must be at least reload_every (60 s)" in told
    assert "set a longer announce" in told


# --- clocks -------------------------------------------------------------------------------------


def test_a_ring_of_the_future_is_found(place: Desk, capsys: Told) -> None:
    place.put(rotate(place.found(DAY), DEFAULT, int(time.time()) + 3 * HOUR + 30, os.urandom))
    told = findings(capsys)["clock", "writer"]
    assert "in 3 h" in told
    assert "set both by NTP" in told


def test_a_volume_with_a_clock_of_its_own_is_found(file: Desk, capsys: Told) -> None:
    file.found()
    ahead = time.time() + HOUR
    os.utime(file.path, (ahead, ahead))
    assert "by the clock of its volume" in the_finding(capsys, "clock")
    behind = time.time() - HOUR
    os.utime(file.path, (behind, behind))
    assert "written 59 min 5" in (told := the_finding(capsys, "clock")) or "written 1 h" in told
    assert "ahead of the volume's" in told


def test_a_ring_that_was_copied_later_is_not_found(file: Desk, capsys: Told) -> None:
    file.found(3 * HOUR)
    file.report(file.ring())
    assert findings(capsys) == {}


def test_within_the_skew_clocks_agree(place: Desk, capsys: Told) -> None:
    now = int(time.time()) + 30
    ring = revoke(place.found(HOUR), place.ring().keys[0].kid, now, os.urandom)
    place.put(disable(ring, ring.keys[0].kid, now, os.urandom))
    place.report(place.ring(), at=now)
    assert findings(capsys) == {}


def test_settings_that_are_wrong_are_wrong_usage(
    file: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    wrong: list[dict[str, Any]] = [{"RELOAD_EVERY": "x"}, {"SKEW": "-1"}, {"KEK": "x"}]
    for given in wrong:
        with monkeypatch.context() as context:
            for name, text in given.items():
                context.setenv(f"SEALEDSTATE_{name}", text)
            assert main(["keys", "check"]) == 2
            assert capsys.readouterr().err.count("\n") == 1

"""``sealedstate keys check`` and ``watch``: what is wrong with a ring, and what to do."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given

from sealedstate.cli._key_checks import CLEAR, CheckResult, Finding, check_ending_keys, list_changes
from sealedstate.cli._source import Snapshot
from sealedstate.keyring import Key
from sealedstate.rotation.reports import Report
from sealedstate.rotation.ring import Ring, Schedule
from sealedstate.rotation.transitions import create_ring, disable, revoke, rotate
from tests.rotation.test_source import CHANGES
from tests.support.examples import examples
from tests.support.ring_cli import DAY, DEFAULT, HOUR, Desk, output, run, usage_error


def run_check(*arguments: str) -> Any:
    """The findings of one check; its exit code agrees."""
    result = run("keys", "check", "--json", *arguments)
    found = result.json["findings"]
    assert (result.code, result.err) == (1 if found else 0, "")
    return found


def findings(*arguments: str) -> dict[tuple[str, str], str]:
    """The sentences by name; the text has the same findings as the JSON."""
    found, text = run_check(*arguments), run("keys", "check", *arguments)
    assert (text.code, text.err) == (1 if found else 0, "")
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
    assert "does not exist; create it" in sentence
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
        "keep (43260 s) must be at least longest_lifetime + skew (172860 s)"
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


def by_subject() -> dict[str, str]:
    """The sentence of each finding by its subject."""
    # Only once, because a check removes expired reports.
    return {found["subject"]: found["sentence"] for found in run_check()}


def two_keys(place: Desk, age: int = HOUR) -> tuple[Ring, Ring, str]:
    """A ring, the ring that followed it `age` seconds ago, and the kid of its new key."""
    first = place.create(DAY + HOUR)
    second = place.put(rotate(first, DEFAULT, int(time.time()) - age, os.urandom))
    return first, second, second.keys[0].kid.hex()


# --- keys that a node lacks ---------------------------------------------------------------------


def test_node_that_lacks_a_key_is_found_with_the_share_of_its_cookies(place: Desk) -> None:
    first, second, kid = two_keys(place)
    old = first.keys[0].kid.hex()
    place.report(second, opened={old: 60, kid: 10})
    for pid in (71, 72):
        place.report(first, node="web2", pid=pid, opened={old: 14}, unknown={kid: 1})
    found = by_subject()
    assert found[f"web2 {kid}"].startswith(
        f"web2 (pid 71, 72) lacks kid {kid}, which 12 % of cookies have"
    )
    assert "sequence 1 of the ring, and 2 is the last one" in found["web2 sequence"]
    assert len(found) == 2


def test_key_that_no_cookie_has_is_not_missed(place: Desk) -> None:
    first, second, kid = two_keys(place)
    place.report(second)
    place.report(first, node="web2")
    assert by_subject().keys() == {"web2 sequence"}
    # A key that was unknown for a moment is no finding either.
    place.report(second, opened={kid: 100}, unknown={kid: 3})
    place.report(second, node="web2")
    assert by_subject() == {}


def test_node_that_had_no_time_to_reload_is_no_finding(place: Desk) -> None:
    first, second, kid = two_keys(place, age=30)
    place.report(second, opened={kid: 5})
    place.report(first, node="web2", at=time.time() - 10)
    assert by_subject() == {}
    # A node that refuses cookies should have looked for the key at once.
    place.report(first, node="web2", unknown={kid: 1})
    assert by_subject().keys() == {f"web2 {kid}"}


def test_node_with_another_ring_is_found(place: Desk) -> None:
    ours, other = place.create(HOUR), replace(two_keys(place)[1], ring_id="feedfeedfeedfeed")
    place.put(replace(ours, sequence=3))
    mine, yours = ours.keys[0].kid.hex(), other.keys[0].kid.hex()
    place.report(place.ring(), opened={mine: 80}, unknown={yours: 10})
    place.report(other, node="web2", opened={yours: 8}, unknown={mine: 2})
    found = by_subject()
    assert f"expected {ours.ring_id}, got feedfeedfeedfeed" in found["web2 ring"]
    assert "give it the same `keys`" in found["web2 ring"]
    assert "which 82 % of cookies have" in found[f"web2 {mine}"]
    assert "which 18 % of cookies have" in found[f"web1 {yours}"]


def test_unknown_kid_is_found_if_it_comes_often(place: Desk) -> None:
    ring = place.create(HOUR)
    (kid,) = place.kids()
    invented = {f"{number:08x}": 1 for number in range(200)}
    place.report(ring, opened={kid: 700}, unknown=invented | {"deadbeef": 100, "others": 5000})
    found = by_subject()
    assert found.keys() == {"deadbeef"}
    assert "no reporting node knows kid deadbeef, which 2 % of cookies" in found["deadbeef"]


def test_revoked_key_is_not_missed(place: Desk) -> None:
    place.create(HOUR)
    (kid,) = place.kids()
    assert run("keys", "revoke", kid).code == 0
    place.report(place.ring(), refused={kid: 50}, unknown={kid: 50})
    assert by_subject() == {}


# --- other states of the ring, complaints and silence -------------------------------------------


def test_node_with_a_newer_ring_or_without_an_active_key_is_found(place: Desk) -> None:
    place.report(replace(place.create(HOUR), sequence=9), primary=None)
    found = by_subject()
    assert "uses sequence 9 of the ring, but here is 1" in found["web1 sequence"]
    assert "has no active key" in found["web1 primary"]


def test_complaint_is_one_finding_for_each_node(place: Desk) -> None:
    ring = place.create(HOUR)
    for pid in (71, 72, 73, 74, 75):
        place.report(ring, pid=pid, complaint="the ring could not be loaded: disk\x1b[2J full")
    (sentence,) = by_subject().values()
    assert sentence.startswith("web1 (pid 71, 72, 73 and 2 more) uses the last good ring")
    assert sentence.endswith("the ring could not be loaded: disk\\x1b[2J full")


def test_process_that_cannot_load_the_ring_is_found(file: Desk) -> None:
    file.create(2 * HOUR)
    node = file.node()
    whole = file.path.read_bytes()
    assert run("keys", "rotate", "--now").code == 0
    newer = file.path.read_bytes()
    # This node sees only a part of the file on the shared volume.
    file.path.write_bytes(whole[:100])
    node.run_once()
    file.path.write_bytes(newer)
    (sentence,) = by_subject().values()
    assert "uses the last good ring, because the ring could not be loaded" in sentence


def test_silence_is_found_if_processes_should_report(
    place: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.create(60)
    assert by_subject() == {}  # the nodes may only be starting
    ring = place.create(2 * HOUR)
    place.report(ring, at=time.time() - HOUR)  # which has expired
    assert "no process has reported for 10 min" in by_subject()[""]
    place.report(ring)
    assert by_subject() == {}
    ring = place.create(HOUR)
    monkeypatch.setenv("SEALEDSTATE_ROTATE_IN_PROCESS", "no")
    place.report(ring)
    assert by_subject() == {}


def test_node_whose_clock_is_ahead_is_found(place: Desk) -> None:
    place.report(place.create(HOUR), at=time.time() + 2.5 * HOUR)
    assert by_subject()["web1 ahead"].startswith("the clock of web1 (pid 71) is 2 h ")


def test_node_whose_clock_is_behind_is_found_by_that_of_the_volume(file: Desk) -> None:
    ring = file.create(HOUR)
    file.report(ring)
    file.report(ring, node="web2", at=time.time() - 2 * HOUR)
    sentence = by_subject()["web2 behind"]
    assert sentence.startswith("the clock of web2 is 2 h behind the clock of the volume")


def ending(place: Desk) -> tuple[Ring, str]:
    """A ring whose older key expires within the hour."""
    first = place.create(DAY + 12 * HOUR)
    ring = rotate(first, DEFAULT, int(time.time()) - 12 * HOUR, os.urandom)
    return place.put(ring), ring.keys[1].kid.hex()


def snapshot(ring: Ring, now: int, *opened: int) -> Snapshot:
    """Processes that opened these numbers of cookies with the older key."""
    kid = ring.keys[1].kid.hex()
    reports = [
        Report("web1", pid, now, ring.ring_id, ring.sequence, None, (), {kid: count})
        for pid, count in enumerate(opened)
    ]
    return Snapshot(now, ring, tuple(reports))


def test_cookies_of_a_key_that_soon_expires_are_found_by_two_snapshots(file: Desk) -> None:
    (ring, kid), now = ending(file), int(time.time())
    before = snapshot(ring, now - 60, 100, 50)
    assert not list(check_ending_keys(before, snapshot(ring, now, 100, 50)))
    # A process that has ended takes nothing away, and a new process counts.
    for opened, count in (((107, 50, 1), 8), ((107,), 7)):
        (found,) = check_ending_keys(before, snapshot(ring, now, *opened))
        assert found.sentence.startswith(f"{kid} expires in ")
        assert f"and {count} cookies came with it in the last 1 min" in found.sentence
    earlier = now - 11 * HOUR
    before = snapshot(ring, earlier - 60, 100)
    assert not list(check_ending_keys(before, snapshot(ring, earlier, 200)))
    file.report(ring, opened={kid: 3})
    assert "nothing is wrong" in output("keys", "check", "--over", "0.1")


# --- reports that cannot be read ----------------------------------------------------------------


@examples(50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES)
def test_no_command_fails_whatever_a_report_contains(file: Desk, changes: dict[str, Any]) -> None:
    ring = file.storage.load() or file.create(HOUR)
    text = json.dumps(asdict(file.report(ring)) | changes)
    (Path(f"{file.path}.nodes") / "other.json").write_text(f"{time.time() + 600}\n{text}\n")
    for arguments in (["list"], ["list", "--json"], ["check"]):
        assert run("keys", *arguments).code in (0, 1)


def test_store_that_fails_while_reports_are_read_is_found(stored: Desk, tmp_path: Path) -> None:
    stored.create(HOUR)
    config = tmp_path / "app.toml"
    # The reports are in another store, which is down.
    config.write_text(
        f'[sealedstate]\nkeys = "store:"\n[sealedstate.storage]\n"*" = "sqlite:{stored.path}"\n'
        f'"sealedstate.nodes" = "sqlite:{tmp_path / "no" / "store.db"}"\n'
    )
    result = run("keys", "check", "--config", str(config))
    assert result.code == 1
    assert "the reports of the nodes could not be read" in result.out
    assert "No process reports: " in output("keys", "list", "--config", str(config))


PATIENCE = 60  # seconds
COMMAND = [sys.executable, "-m", "sealedstate", "keys", "watch", "--every", "0.1"]


@contextmanager
def start_watch(stdout: int) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(COMMAND, stdout=stdout, stderr=subprocess.PIPE, text=True) as process:
        # A test that waits for a line that never comes ends with the process.
        patience = threading.Timer(PATIENCE, process.kill)
        patience.start()
        try:
            yield process
        finally:
            patience.cancel()
            process.kill()


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """The next line that contains a text."""
    assert process.stdout is not None
    return next(line for line in process.stdout if text in line)


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code and the errors after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    errors = process.stderr.read()
    return process.wait(PATIENCE), errors


@pytest.mark.slow
def test_each_change_is_a_line_until_ctrl_c(place: Desk) -> None:
    with start_watch(subprocess.PIPE) as process:
        assert "found: ring: " in line_with(process, "found")
        ring = place.create()
        kid = ring.keys[0].kid.hex()
        assert line_with(process, "sequence").endswith("sequence none -> 1\n")
        assert line_with(process, kid).endswith(f"{kid} unknown -> primary\n")
        assert "settled: ring" in line_with(process, "settled")
        assert run("keys", "rotate", "--now").code == 0
        new = place.ring().keys[0].kid.hex()
        assert line_with(process, "sequence").endswith("sequence 1 -> 2\n")
        assert line_with(process, new).endswith(f"{new} unknown -> pending\n")
        assert run("keys", "revoke", kid).code == 0
        assert line_with(process, kid).endswith(f"{kid} primary -> gone\n")
        place.report(place.ring(), complaint="the disk is full")
        assert line_with(process, "report").endswith("reports of 1 process\n")
        assert line_with(process, "found: nodes: ").endswith("the disk is full\n")
        place.report(place.ring())
        assert "settled: nodes web1 the disk is full" in line_with(process, "settled")
        assert interrupt(process) == (0, "")


@pytest.mark.slow
def test_terminal_is_drawn_again_each_time(file: Desk) -> None:
    kid = file.create().keys[0].kid.hex()
    ours, theirs = pty.openpty()
    with start_watch(theirs) as process:
        shown = ""
        while shown.count("Press Ctrl-C to end.") < 2:
            shown += os.read(ours, 10_000).decode()
        assert shown.startswith(CLEAR)
        assert shown.count(CLEAR) >= 2
        assert f"\n{kid}  primary" in shown
        assert "Nothing is wrong." in shown
        assert interrupt(process) == (0, "")
    os.close(ours)
    os.close(theirs)


def test_finding_is_a_line_once_although_its_sentence_changes(file: Desk) -> None:
    snapshot = Snapshot(int(time.time()), file.create())

    def lines(before: list[Finding], after: list[Finding]) -> list[str]:
        return [*list_changes(CheckResult(snapshot, before), CheckResult(snapshot, after))]

    first, later = (Finding("rotation", "", f"stopped {hours} h ago") for hours in (3, 4))
    assert lines([], [first]) == ["found: rotation: stopped 3 h ago"]
    assert lines([first], [later]) == []
    assert lines([later], []) == ["settled: rotation"]


def test_time_alone_changes_the_state_of_a_key(file: Desk) -> None:
    now, ring = int(time.time()), file.create()
    new = replace(ring.keys[0], kid=b"next", secret=os.urandom(32), activates_at=now + HOUR)
    ring = replace(ring, keys=(new, *ring.keys))
    before, after, last = (
        CheckResult(Snapshot(at, ring)) for at in (now, now + 2 * HOUR, now + 2 * DAY)
    )
    old = ring.keys[1].kid.hex()
    assert set(list_changes(before, after)) == {
        f"{b'next'.hex()} pending -> primary",
        f"{old} primary -> retired",
    }
    assert list(list_changes(after, last)) == [f"{old} retired -> expired"]

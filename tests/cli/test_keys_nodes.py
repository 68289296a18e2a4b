"""``sealedstate keys check``: what follows from the reports of nodes."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given

from sealedstate.cli._key_checks import check_ending_keys
from sealedstate.cli._source import Snapshot
from sealedstate.rotation.reports import Report
from sealedstate.rotation.ring import Ring
from sealedstate.rotation.transitions import rotate
from tests.rotation.test_reports import CHANGES
from tests.support.examples import examples
from tests.support.ring_cli import DAY, DEFAULT, HOUR, Desk, output, run


def findings() -> dict[str, str]:
    """The sentence of each finding by its subject."""
    result = run("keys", "check", "--json")
    found = result.json["findings"]
    assert result.code == (1 if found else 0)
    return {finding["subject"]: finding["sentence"] for finding in found}


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
    found = findings()
    assert found[f"web2 {kid}"].startswith(
        f"web2 (pid 71, 72) lacks kid {kid}, which 12 % of cookies have"
    )
    assert "sequence 1 of the ring, and 2 is the last one" in found["web2 sequence"]
    assert len(found) == 2


def test_key_that_no_cookie_has_is_not_missed(place: Desk) -> None:
    first, second, kid = two_keys(place)
    place.report(second)
    place.report(first, node="web2")
    assert findings().keys() == {"web2 sequence"}
    # A key that was unknown for a moment is no finding either.
    place.report(second, opened={kid: 100}, unknown={kid: 3})
    place.report(second, node="web2")
    assert findings() == {}


def test_node_that_had_no_time_to_reload_is_no_finding(place: Desk) -> None:
    first, second, kid = two_keys(place, age=30)
    place.report(second, opened={kid: 5})
    place.report(first, node="web2", at=time.time() - 10)
    assert findings() == {}
    # A node that refuses cookies should have looked for the key at once.
    place.report(first, node="web2", unknown={kid: 1})
    assert findings().keys() == {f"web2 {kid}"}


def test_node_with_another_ring_is_found(place: Desk) -> None:
    ours, other = place.create(HOUR), replace(two_keys(place)[1], ring_id="feedfeedfeedfeed")
    place.put(replace(ours, sequence=3))
    mine, yours = ours.keys[0].kid.hex(), other.keys[0].kid.hex()
    place.report(place.ring(), opened={mine: 80}, unknown={yours: 10})
    place.report(other, node="web2", opened={yours: 8}, unknown={mine: 2})
    found = findings()
    assert f"expected {ours.ring_id}, got feedfeedfeedfeed" in found["web2 ring"]
    assert "give it the same `keys`" in found["web2 ring"]
    assert "which 82 % of cookies have" in found[f"web2 {mine}"]
    assert "which 18 % of cookies have" in found[f"web1 {yours}"]


def test_unknown_kid_is_found_if_it_comes_often(place: Desk) -> None:
    ring = place.create(HOUR)
    (kid,) = place.kids()
    invented = {f"{number:08x}": 1 for number in range(200)}
    place.report(ring, opened={kid: 700}, unknown=invented | {"deadbeef": 100, "others": 5000})
    found = findings()
    assert found.keys() == {"deadbeef"}
    assert "no reporting node knows kid deadbeef, which 2 % of cookies" in found["deadbeef"]


def test_revoked_key_is_not_missed(place: Desk) -> None:
    place.create(HOUR)
    (kid,) = place.kids()
    assert run("keys", "revoke", kid).code == 0
    place.report(place.ring(), refused={kid: 50}, unknown={kid: 50})
    assert findings() == {}


# --- other states of the ring, complaints and silence -------------------------------------------


def test_node_with_a_newer_ring_or_without_an_active_key_is_found(place: Desk) -> None:
    place.report(replace(place.create(HOUR), sequence=9), primary=None)
    found = findings()
    assert "uses sequence 9 of the ring, but here is 1" in found["web1 sequence"]
    assert "has no active key" in found["web1 primary"]


def test_complaint_is_one_finding_for_each_node(place: Desk) -> None:
    ring = place.create(HOUR)
    for pid in (71, 72, 73, 74, 75):
        place.report(ring, pid=pid, complaint="the ring could not be loaded: disk\x1b[2J full")
    (sentence,) = findings().values()
    assert sentence.startswith("web1 (pid 71, 72, 73 and 2 more) uses the last good ring")
    assert sentence.endswith("the ring could not be loaded: disk?[2J full")


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
    (sentence,) = findings().values()
    assert "uses the last good ring, because the ring could not be loaded" in sentence


def test_silence_is_found_if_processes_should_report(
    place: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.create(60)
    assert findings() == {}  # the nodes may only be starting
    ring = place.create(2 * HOUR)
    place.report(ring, at=time.time() - HOUR)  # which has expired
    assert "no process has reported for 10 min" in findings()[""]
    place.report(ring)
    assert findings() == {}
    ring = place.create(HOUR)
    monkeypatch.setenv("SEALEDSTATE_ROTATE_IN_PROCESS", "no")
    place.report(ring)
    assert findings() == {}


# --- clocks -------------------------------------------------------------------------------------


def test_node_whose_clock_is_ahead_is_found(place: Desk) -> None:
    place.report(place.create(HOUR), at=time.time() + 2.5 * HOUR)
    assert findings()["web1 ahead"].startswith("the clock of web1 (pid 71) is 2 h ")


def test_node_whose_clock_is_behind_is_found_by_that_of_the_volume(file: Desk) -> None:
    ring = file.create(HOUR)
    file.report(ring)
    file.report(ring, node="web2", at=time.time() - 2 * HOUR)
    sentence = findings()["web2 behind"]
    assert sentence.startswith("the clock of web2 is 2 h behind the clock of the volume")


# --- keys that end ------------------------------------------------------------------------------


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


def test_files_that_are_no_reports_are_ignored(file: Desk) -> None:
    file.report(file.create(HOUR))
    folder = Path(f"{file.path}.nodes")
    (folder / "folder.json").mkdir()
    for text in ("", "x", "1\n", "nan\n{}", "9e99\n[]", "9e99\n" + "[" * 60_000):
        (folder / "other.json").write_text(text)
        assert findings() == {}
        assert run("keys", "list").code == 0


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

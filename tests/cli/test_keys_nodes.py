"""``sealedstate keys check``: what nodes tell about themselves, and what follows from that."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealedstate.cli import main
from sealedstate.cli.keys.node_checks import of_ending_keys
from sealedstate.cli.keys.source import Look
from sealedstate.rotation.reports import Report
from sealedstate.rotation.ring import Ring
from sealedstate.rotation.transitions import rotate
from tests.support.ring_cli import DAY, DEFAULT, HOUR, Desk, desk

Told = pytest.CaptureFixture[str]


def findings(told: Told) -> dict[str, str]:
    """What is found: the sentence by the subject."""
    told.readouterr()
    code = main(["keys", "check", "--json"])
    found = json.loads(told.readouterr().out)["findings"]
    assert code == (1 if found else 0)
    return {finding["subject"]: finding["sentence"] for finding in found}


def two_keys(place: Desk, age: int = HOUR) -> tuple[Ring, Ring, str]:
    """A ring, what became of it so long ago, and the kid of its new key."""
    first = place.found(DAY + HOUR)
    second = place.put(rotate(first, DEFAULT, int(time.time()) - age, os.urandom))
    return first, second, second.keys[0].kid.hex()


# --- keys that a node lacks ---------------------------------------------------------------------


def test_a_node_that_lacks_a_key_is_found_with_the_share_of_cookies_that_carry_it(
    place: Desk, capsys: Told
) -> None:
    first, second, kid = two_keys(place)
    old = first.keys[0].kid.hex()
    place.report(second, opened={old: 60, kid: 10})
    for pid in (71, 72):
        place.report(first, node="web2", pid=pid, opened={old: 14}, unknown={kid: 1})
    told = findings(capsys)
    assert told[f"web2 {kid}"].startswith(
        f"web2 (pid 71, 72) lacks kid {kid}, which 12 % of cookies carry"
    )
    assert "sequence 1 of the ring and not 2" in told["web2 sequence"]
    assert len(told) == 2


def test_a_node_with_another_ring_is_found(place: Desk, capsys: Told) -> None:
    ours, other = place.found(HOUR), replace(two_keys(place)[1], ring_id="feedfeedfeedfeed")
    place.put(replace(ours, sequence=3))
    mine, yours = ours.keys[0].kid.hex(), other.keys[0].kid.hex()
    place.report(place.ring(), opened={mine: 80}, unknown={yours: 10})
    place.report(other, node="web2", opened={yours: 8}, unknown={mine: 2})
    told = findings(capsys)
    assert f"uses another ring, feedfeedfeedfeed and not {ours.ring_id}" in told["web2 ring"]
    assert "give it the same `keys`" in told["web2 ring"]
    assert "which 82 % of cookies carry" in told[f"web2 {mine}"]
    assert "which 18 % of cookies carry" in told[f"web1 {yours}"]


def test_a_node_that_has_just_been_overtaken_is_left_in_peace(place: Desk, capsys: Told) -> None:
    first, second, kid = two_keys(place, age=30)
    place.report(second, opened={kid: 5})
    place.report(first, node="web2", at=time.time() - 10)
    assert findings(capsys) == {}
    # One that refuses cookies is not, for it should have looked for the key at once.
    place.report(first, node="web2", unknown={kid: 1})
    assert findings(capsys).keys() == {f"web2 {kid}"}


def test_a_key_that_was_unknown_for_a_moment_is_forgotten(place: Desk, capsys: Told) -> None:
    _, second, kid = two_keys(place)
    place.report(second, opened={kid: 100}, unknown={kid: 3})
    assert findings(capsys) == {}


def test_a_key_that_no_cookie_carries_is_not_missed(place: Desk, capsys: Told) -> None:
    first, second, kid = two_keys(place)
    place.report(second)
    place.report(first, node="web2")
    assert findings(capsys).keys() == {"web2 sequence"}
    assert kid not in findings(capsys)["web2 sequence"]


def test_a_kid_that_nobody_knows_is_found_if_it_comes_often(place: Desk, capsys: Told) -> None:
    ring = place.found(HOUR)
    (kid,) = (key.kid.hex() for key in ring.keys)
    invented = {f"{number:08x}": 1 for number in range(200)}
    place.report(ring, opened={kid: 700}, unknown=invented | {"deadbeef": 100, "others": 5000})
    told = findings(capsys)
    assert told.keys() == {"deadbeef"}
    assert "no node that reports here knows kid deadbeef, which 2 % of cookies" in told["deadbeef"]


def test_a_revoked_key_is_not_missed(place: Desk, capsys: Told) -> None:
    ring = place.found(HOUR)
    kid = ring.keys[0].kid.hex()
    assert main(["keys", "revoke", kid]) == 0
    place.report(place.ring(), refused={kid: 50}, unknown={kid: 50})
    assert findings(capsys) == {}


# --- rings --------------------------------------------------------------------------------------


def test_a_ring_that_was_put_back_is_found(place: Desk, capsys: Told) -> None:
    ring = place.found(HOUR)
    place.report(replace(ring, sequence=9))
    told = findings(capsys)["web1 sequence"]
    assert "uses sequence 9 of the ring, and here is only 1" in told


def test_a_complaint_is_repeated_once_for_each_node(place: Desk, capsys: Told) -> None:
    ring = place.found(HOUR)
    for pid in (71, 72, 73, 74, 75):
        place.report(ring, pid=pid, complaint="the ring can't be loaded: disk\x1b[2J full")
    (told,) = findings(capsys).values()
    assert told.startswith("web1 (pid 71, 72, 73 and 2 more) keeps the last good ring")
    assert told.endswith("the ring can't be loaded: disk?[2J full")


def test_a_node_that_can_not_seal_is_found(place: Desk, capsys: Told) -> None:
    place.report(place.found(HOUR), primary=None)
    assert "has no key that may seal" in findings(capsys)["web1 primary"]


def test_a_real_process_that_lags_is_found(file: Desk, capsys: Told) -> None:
    file.found(2 * HOUR)
    node = file.node()
    whole = file.path.read_bytes()
    assert main(["keys", "rotate", "--now"]) == 0
    newer = file.path.read_bytes()
    # What this node sees of the shared volume is cut short.
    file.path.write_bytes(whole[:100])
    node.run_once()
    file.path.write_bytes(newer)
    (told,) = findings(capsys).values()
    assert "keeps the last good ring and complains: the ring could not be loaded" in told


# --- silence ------------------------------------------------------------------------------------


def test_silence_is_found_when_processes_should_report(place: Desk, capsys: Told) -> None:
    ring = place.found(HOUR)
    assert "no process has reported for 10 min" in findings(capsys)[""]
    place.report(ring)
    assert findings(capsys) == {}


def test_silence_is_right_while_nothing_runs_yet_or_nobody_is_to_report(
    place: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    place.found(60)
    assert findings(capsys) == {}
    place.found(HOUR)
    monkeypatch.setenv("SEALEDSTATE_ROTATE_IN_PROCESS", "no")
    assert findings(capsys) == {}


def test_reports_that_expired_are_silence(place: Desk, capsys: Told) -> None:
    place.report(place.found(2 * HOUR), at=time.time() - HOUR)
    assert "" in findings(capsys)


# --- clocks -------------------------------------------------------------------------------------


def test_a_node_whose_clock_is_ahead_is_found(place: Desk, capsys: Told) -> None:
    place.report(place.found(HOUR), at=time.time() + 2.5 * HOUR)
    told = findings(capsys)["web1 ahead"]
    assert told.startswith("the clock of web1 (pid 71) is 2 h ")


def test_a_node_whose_clock_is_behind_is_found_by_that_of_the_volume(
    file: Desk, capsys: Told
) -> None:
    ring = file.found(HOUR)
    file.report(ring)
    file.report(ring, node="web2", at=time.time() - 2 * HOUR)
    told = findings(capsys)["web2 behind"]
    assert told.startswith("the clock of web2 is 2 h behind that of the volume")


# --- keys that end ------------------------------------------------------------------------------


def ending(place: Desk) -> tuple[Ring, str]:
    """A ring whose older key expires within the hour."""
    first = place.found(DAY + 12 * HOUR)
    ring = rotate(first, DEFAULT, int(time.time()) - 12 * HOUR, os.urandom)
    return place.put(ring), ring.keys[1].kid.hex()


def look(ring: Ring, now: int, *opened: int) -> Look:
    """What so many processes tell that have opened so many cookies under the older key."""
    kid = ring.keys[1].kid.hex()
    reports = [
        Report("web1", pid, now, ring.ring_id, ring.sequence, None, (), {kid: count})
        for pid, count in enumerate(opened)
    ]
    return Look(now, ring, tuple(reports))


def test_cookies_under_a_key_that_soon_expires_are_found_by_who_looks_twice(place: Desk) -> None:
    (ring, kid), now = ending(place), int(time.time())
    before = look(ring, now - 60, 100, 50)
    assert not list(of_ending_keys(before, look(ring, now, 100, 50)))
    # A process that has gone meanwhile takes nothing away, and one that has come counts.
    (found,) = of_ending_keys(before, look(ring, now, 107, 50, 1))
    assert found.sentence.startswith(f"{kid} expires in ")
    assert "and 8 cookies came under it in the last 1 min" in found.sentence
    (found,) = of_ending_keys(before, look(ring, now, 107))
    assert "and 7 cookies came" in found.sentence


def test_a_key_that_has_much_time_left_may_be_in_use(place: Desk) -> None:
    (ring, _), now = ending(place), int(time.time())
    earlier = now - 11 * HOUR
    assert not list(of_ending_keys(look(ring, earlier - 60, 100), look(ring, earlier, 200)))


def test_check_looks_twice_when_it_is_told_to(file: Desk, capsys: Told) -> None:
    ring, kid = ending(file)
    file.report(ring, opened={kid: 3})
    assert main(["keys", "check", "--over", "0.1"]) == 0
    assert "nothing is wrong" in capsys.readouterr().out


# --- reports that are none ----------------------------------------------------------------------

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ["node", "pid", "at", "ring", "sequence", "primary", "known", "opened", "complaint"]


@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=st.dictionaries(st.sampled_from(FIELDS), ANYTHING, min_size=1))
def test_whatever_a_report_holds_no_command_stumbles_over_it(
    file: Desk, capsys: Told, changes: dict[str, Any]
) -> None:
    ring = file.home.load() or file.found(HOUR)
    shown = asdict(file.report(ring)) | changes
    folder = Path(f"{file.path}.nodes")
    (folder / "other.json").write_text(f"{time.time() + 600}\n{json.dumps(shown)}\n")
    for arguments in (["list"], ["list", "--json"], ["check"]):
        assert main(["keys", *arguments]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "x", "1\n", "nan\n{}", "9e99\n[]", "9e99\n" + "[" * 60_000])
def test_a_file_that_is_no_report_is_passed_over(file: Desk, text: str, capsys: Told) -> None:
    file.report(file.found(HOUR))
    (Path(f"{file.path}.nodes") / "other.json").write_text(text)
    (Path(f"{file.path}.nodes") / "folder.json").mkdir()
    assert findings(capsys) == {}


def test_a_store_that_fails_while_reports_are_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    with desk("store", tmp_path, monkeypatch) as place:
        place.found(HOUR)
    # The ring can be read, and what nodes told lives elsewhere.
    config = tmp_path / "app.toml"
    config.write_text(
        f'[sealedstate]\nkeys = "store:"\n[sealedstate.storage]\n"*" = "sqlite:{place.path}"\n'
        f'"sealedstate.nodes" = "sqlite:{tmp_path / "no" / "store.db"}"\n'
    )
    assert main(["keys", "check", "--config", str(config)]) == 1
    assert "what nodes tell could not be read" in capsys.readouterr().out
    assert main(["keys", "list", "--config", str(config)]) == 0
    assert "No process reports: " in capsys.readouterr().out

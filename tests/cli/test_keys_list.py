"""``sealedstate keys list``: the timeline, what still arrives, and who tells it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import ConfigurationError
from sealedstate.cli import main
from sealedstate.cli import output as wording
from sealedstate.cli.keys import listing as timeline
from sealedstate.rotation.ring import Ring, Tombstone
from sealedstate.rotation.transitions import create_ring, disable, rotate
from tests.support.ring_cli import DAY, DEFAULT, HOUR, Desk
from tests.support.rings import Moment, walks

Told = pytest.CaptureFixture[str]
NOW = 1_795_334_400  # 2026-11-22T08:00:00Z


def listed(told: Told) -> str:
    told.readouterr()
    assert main(["keys", "list"]) == 0
    out, err = told.readouterr()
    assert not err
    return out


def as_json(told: Told) -> Any:
    told.readouterr()
    assert main(["keys", "list", "--json"]) == 0
    return json.loads(told.readouterr().out)


def row(text: str, kid: str) -> list[str]:
    """The words of the first line that begins with a kid."""
    return next(line for line in text.splitlines() if line.startswith(kid)).split()


def aged(days: int) -> Ring:
    """A ring that was rotated in time, and whose last key seals since an hour before NOW."""
    since = NOW - HOUR - days * DAY
    ring = create_ring(DEFAULT, since, os.urandom)
    for day in range(1, days + 1):
        ring = rotate(ring, DEFAULT, since + day * DAY - DEFAULT.announce, os.urandom)
    return ring


# --- the table ----------------------------------------------------------------------------------


def test_each_key_is_listed_with_its_state_and_dates() -> None:
    ring = aged(2)
    new, old, oldest = ring.keys
    lines = timeline.table(ring, NOW, {new.kid.hex(): 7, old.kid.hex(): 12_345_678})
    assert lines[0].split() == [
        *("kid", "state", "created", "seals", "from", "seals", "until", "opens", "until"),
        "cookies",
    ]
    at = {line.split()[0]: line for line in lines if line.split()[0] in map(kid_of, ring.keys)}
    assert at[kid_of(new)].split()[1] == "primary"
    assert at[kid_of(new)].split()[-1] == "7"
    assert at[kid_of(old)].split()[1] == "retired"
    assert at[kid_of(old)].endswith("12 M")
    assert at[kid_of(oldest)].endswith("-")
    for key in ring.keys:
        for date in (key.created_at, key.activates_at, ring.retires_at(key), ring.expires_at(key)):
            assert (wording.moment(date) if date else "-") in at[kid_of(key)]
    below = lines[lines.index(at[kid_of(old)]) + 1]
    assert wording.relative(old.activates_at, NOW) in below


def kid_of(key: Any) -> str:
    return str(key.kid.hex())


def test_every_state_has_its_name(place: Desk, capsys: Told) -> None:
    now = int(time.time())
    ring = create_ring(DEFAULT, now - 2 * DAY, os.urandom)
    ring = rotate(ring, DEFAULT, now - HOUR, os.urandom)  # nobody came in between
    ring = rotate(ring, DEFAULT, now, os.urandom, force=True)
    pending, primary, retired = ring.keys
    ring = disable(ring, retired.kid, now, os.urandom)
    ring = place.put(replace(ring, sequence=1))
    found = {key["kid"]: key["state"] for key in as_json(capsys)["keys"]}
    states = {pending: "pending", primary: "primary", retired: "disabled"}
    assert found == {kid_of(key): state for key, state in states.items()}
    for key, state in states.items():
        assert row(listed(capsys), kid_of(key))[1] == state


def test_the_same_is_told_to_programs(place: Desk, capsys: Told) -> None:
    ring = place.found(HOUR)
    told = as_json(capsys)
    assert told["where"] == place.home.location
    assert (told["ring"], told["sequence"]) == (ring.ring_id, 1)
    assert told["schedule"] == {
        "rotate_every": DAY,
        "announce": 900,
        "keep": 43260,
        "skew": 60,
    }
    (key,) = told["keys"]
    assert key["created_at"] == wording.iso(ring.keys[0].created_at)
    assert key["retires_at"] is None


# --- the drawing --------------------------------------------------------------------------------


def bars(ring: Ring, now: int) -> dict[str, str]:
    """What is drawn for each kid."""
    lines = timeline.drawing(ring, now)
    return {line[:8]: line[10:] for line in lines if line[:8].strip()}


def test_keys_are_drawn_one_after_the_other() -> None:
    ring = rotate(aged(1), DEFAULT, NOW, os.urandom, force=True)
    drawn = [bars(ring, NOW)[kid_of(key)] for key in ring.keys]
    next_one, primary, retired = drawn
    assert set(next_one.strip()) <= set(".#|")
    assert set(primary.strip()) <= set(".#-")
    assert retired.rstrip().endswith("-")
    assert retired.index("#") < primary.index("#") < next_one.index("#")
    # Where one ceases to seal, the next one begins.
    assert retired.rindex("#") + 1 == primary.index("#")


def test_a_disabled_key_is_crossed_out_from_then_on() -> None:
    ring = create_ring(DEFAULT, NOW - DAY // 2, os.urandom)
    ring = disable(ring, ring.keys[0].kid, NOW, os.urandom)
    drawn = bars(ring, NOW)[kid_of(ring.keys[-1])]
    assert drawn.lstrip()[0] == "#"
    assert drawn.rstrip()[-1] == "x"


def test_a_key_of_the_far_future_leaves_room_for_the_others() -> None:
    ring = aged(1)
    far = replace(ring.keys[0], kid=b"far!", secret=os.urandom(32), activates_at=NOW + 500 * DAY)
    wide = bars(replace(ring, keys=(far, *ring.keys)), NOW)
    assert wide[kid_of(ring.keys[0])].count("#") > 10


@given(walks())
def test_whatever_becomes_of_a_ring_it_fits_into_100_columns(past: list[Moment]) -> None:
    for moment in past:
        for now in (moment.now - 100, moment.now, moment.now + 10 * DAY):
            drawn = timeline.drawing(moment.ring, now)
            lines = [*timeline.table(moment.ring, now, {}), *drawn]
            assert max(map(len, lines)) <= 100
            assert len(drawn) == len(moment.ring.keys) + 3
            assert drawn[1].split() in (["|", "now"], ["now", "|"])
            assert all(line[10:].strip() for line in drawn)


# --- what arrives -------------------------------------------------------------------------------


def test_what_arrives_under_each_kid_is_added_up(place: Desk, capsys: Told) -> None:
    ring = place.found(HOUR)
    (kid,) = map(kid_of, ring.keys)
    assert "No process reports." in listed(capsys)
    assert row(listed(capsys), kid)[-1] == "-"
    place.report(ring, pid=71, opened={kid: 40}, unknown={"deadbeef": 3, "others": 9})
    place.report(ring, pid=72, opened={kid: 2}, refused={kid: 5})
    place.report(ring, node="web2", sequence=3)
    text, told = listed(capsys), as_json(capsys)
    assert row(text, kid)[-1] == "42"
    assert row(text, "deadbeef") == ["deadbeef", "3", "cookies"]
    assert "web1: 2 processes, sequence 1, last " in text
    assert "web2: 1 process, sequence 3, last " in text
    (key,) = told["keys"]
    assert (key["opened"], key["refused"], key["unknown"]) == (42, 5, 0)
    assert told["unknown"] == {"deadbeef": 3, "others": 9}
    assert [report["pid"] for report in told["reports"]] == [71, 72, 71]


def test_a_running_process_is_listed(place: Desk, capsys: Told) -> None:
    place.found()
    place.node().run_once()
    text = listed(capsys)
    assert ": 1 process, sequence 1, last " in text
    assert row(text, kid_of(place.ring().keys[0]))[-1] == "0"


# --- what is no more ----------------------------------------------------------------------------


def test_revoked_keys_are_listed_with_their_reason(place: Desk, capsys: Told) -> None:
    ring = place.found(HOUR)
    (kid,) = map(kid_of, ring.keys)
    assert main(["keys", "revoke", kid, "--reason", "Laptop in Nové Město gestohlen"]) == 0
    place.report(place.ring(), refused={kid: 12})
    line = row(listed(capsys), kid)
    assert line[1] == "revoked"
    assert " ".join(line[-8:]) == "12 cookies refused Laptop in Nové Město gestohlen"
    (dead,) = as_json(capsys)["tombstones"]
    assert (dead["kid"], dead["revoked"]) == (kid, True)
    assert main(["keys", "revoke", "--before", "1d"]) == 0
    assert "Cookies sealed before " in listed(capsys)


def test_of_many_expired_keys_the_last_are_listed(place: Desk, capsys: Told) -> None:
    ring, now = place.found(HOUR), int(time.time())
    dead = [
        Tombstone(number.to_bytes(4, "big"), now - DAY, now - number, True, revoked=number == 25)
        for number in range(30)
    ]
    place.put(replace(ring, sequence=2, tombstones=tuple(dead)))
    text = listed(capsys)
    told = [line.split()[0] for line in text.split("No more:\n")[1].splitlines()[:12]]
    assert told == ["00000019", *(f"{number:08x}" for number in range(10)), "19"]
    assert "19 more have expired; --json lists them" in text
    assert len(as_json(capsys)["tombstones"]) == 30


# --- text of others -----------------------------------------------------------------------------


def test_a_terminal_obeys_nobody(place: Desk, capsys: Told) -> None:
    ring = place.found()
    place.report(ring, node="web\x1b[2J\nweb9: all is well", complaint="\x07")
    text = listed(capsys)
    assert "\x1b" not in text
    assert "web?[2J?web9: all is well: 1 process" in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_is_served(
    place: Desk, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kid,) = map(kid_of, place.found().keys)
    assert main(["keys", "revoke", kid, "--reason", "Město 🔑"]) == 0
    with (tmp_path / "shown").open("w", encoding=encoding) as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        assert main(["keys", "list"]) == 0
    assert "M" in (tmp_path / "shown").read_text(encoding)


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (86400, "1 d"),
        (86405, "1 d"),
        (12 * 3600 + 18 * 60, "12 h 18 min"),
        (400 * 86400 + 3 * 3600, "400 d 3 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, words: str) -> None:
    assert wording.duration(seconds) == words


def test_a_time_is_told_by_how_far_away_it_is() -> None:
    assert wording.relative(NOW + 3 * HOUR, NOW) == "in 3 h"
    assert wording.relative(NOW - 3 * HOUR, NOW) == "3 h ago"
    assert wording.relative(NOW, NOW) == "now"


@given(st.one_of(st.integers(), st.floats(-1e30, 1e30)))
def test_every_time_can_be_told(epoch: float) -> None:
    assert wording.moment(epoch)[-3] == ":"
    assert wording.exact(epoch).endswith("Z")
    assert wording.iso(epoch)


@given(st.text())
def test_whatever_is_typed_is_a_time_of_the_past_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        assert isinstance(wording.past(text, NOW), int)


@given(st.text())
def test_plain_text_is_one_short_line(text: str) -> None:
    assert wording.plain(text).isprintable()
    assert len(wording.plain(text, 20)) <= 20

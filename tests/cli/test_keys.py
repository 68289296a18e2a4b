"""``sealedstate keys generate``, ``init`` and ``rotate``, as an operator runs them: on files and on
a store, alone and against others.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from sealedstate import ConfigurationError
from sealedstate.cli.keys.changes import changed
from sealedstate.cli.keys.source import opened
from sealedstate.keyring import Key
from sealedstate.rotation.ring import Ring
from sealedstate.rotation.transitions import rotate
from sealedstate.testing.workers import in_threads
from tests.support.ring_cli import (
    DAY,
    DEFAULT,
    HOUR,
    KEK,
    Desk,
    Told,
    as_json,
    desk,
    finding,
    keys,
    kids,
    wrong_usage,
)

# --- generate -----------------------------------------------------------------------------------


def test_generate_prints_what_wraps_a_ring(
    file: Desk, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keys("generate", "--kek") == 0
    kek = capsys.readouterr().out.strip()
    assert Key.parse(kek)
    monkeypatch.setenv("SEALEDSTATE_KEK", kek)
    assert keys("init") == 0
    assert json.loads(file.path.read_text())["wrapped_by"] == Key.parse(kek).kid.hex()


def test_the_key_that_wraps_is_changed_without_anybody_noticing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = Key.generate(os.urandom)
    for kind in ("wrapped file", "store"):
        with desk(kind, tmp_path, monkeypatch) as place:
            ring = place.found()
            # Each step on one node after the other: all can read the ring at any time.
            for kek in (f"{KEK} {new.export()}", f"{new.export()} {KEK}"):
                monkeypatch.setenv("SEALEDSTATE_KEK", kek)
                assert keys("rotate", "--now") == 0
                assert place.node().ring.lookup == ring.lookup
                place.environ["SEALEDSTATE_KEK"] = kek
            monkeypatch.setenv("SEALEDSTATE_KEK", new.export())
            assert keys("list") == 0


# --- init ---------------------------------------------------------------------------------------


def test_init_makes_a_ring_that_an_application_takes(place: Desk, capsys: Told) -> None:
    assert keys("init") == 0
    assert place.home.location in capsys.readouterr().out
    assert place.node().keyring().primary(int(time.time())).kid == place.ring().keys[0].kid


def test_init_as_json_tells_what_there_is(place: Desk, capsys: Told) -> None:
    assert keys("init", "--json") == 0
    ring, is_file = place.ring(), place.keys.startswith("file:")
    assert as_json(capsys) == {
        "where": place.home.location,
        "changed": True,
        "ring": ring.ring_id,
        "sequence": 1,
        "primary": kids(ring)[0],
        "wrapped": "SEALEDSTATE_KEK" in place.environ,
        "mode": "0600" if is_file else None,
    }


def test_a_ring_file_is_its_owners_alone(file: Desk, capsys: Told) -> None:
    before = os.umask(0)
    try:
        assert keys("init") == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert "(mode 0600)" in capsys.readouterr().out


def test_init_leaves_a_ring_alone_that_is_there(place: Desk, capsys: Told) -> None:
    ring = place.found()
    assert "is there already; nothing was done" in finding(capsys, "init")
    assert place.ring() == ring


def test_of_many_who_begin_a_ring_one_does(place: Desk, capsys: Told) -> None:
    codes = in_threads(5, lambda *_: keys("init"))
    assert sorted(codes) == [0, 1, 1, 1, 1]
    assert place.ring().sequence == 1


def test_a_ring_in_clear_is_warned_of(file: Desk, capsys: Told) -> None:
    assert keys("init") == 0
    err = capsys.readouterr().err
    assert "SEALEDSTATE_KEK is not set" in err
    assert "`sealedstate keys generate --kek` prints" in err


def test_a_wrapped_ring_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    with desk("wrapped file", tmp_path, monkeypatch):
        assert keys("init") == 0
    assert not capsys.readouterr().err


def test_a_ring_that_would_break_a_promise_is_not_begun(
    file: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    monkeypatch.setenv("SEALEDSTATE_ANNOUNCE", "30")
    assert "reload_every (60 s) + skew (60 s)" in wrong_usage(capsys, "init")
    assert not file.path.exists()


def test_a_place_that_is_not_there_is_told(file: Desk, tmp_path: Path, capsys: Told) -> None:
    assert "No such file" in finding(capsys, "init", str(tmp_path / "no" / "keys.json"))


def test_a_store_without_a_key_that_wraps_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    with desk("store", tmp_path, monkeypatch):
        monkeypatch.delenv("SEALEDSTATE_KEK")
        for action in ("init", "list", "rotate", "check"):
            assert "SEALEDSTATE_KEK" in wrong_usage(capsys, action)


# --- rotate -------------------------------------------------------------------------------------


def test_nothing_is_done_and_all_is_well_when_nothing_is_due(place: Desk, capsys: Told) -> None:
    ring = place.found(HOUR)
    assert keys("rotate") == 0
    told = capsys.readouterr().out
    assert re.fullmatch(r"Nothing is due; the next key is announced in 22 h \d+ min\.\n", told)
    assert place.ring() == ring


def test_a_key_that_is_due_is_announced(place: Desk, capsys: Told) -> None:
    ring = place.found(DAY)
    assert keys("rotate") == 0
    after = place.ring()
    new = after.keys[0]
    assert new.kid != ring.keys[0].kid
    assert new.activates_at >= after.updated_at + DEFAULT.announce
    told = capsys.readouterr().out
    assert told.startswith(f"{new.kid.hex()} is announced; it seals from ")
    assert keys("rotate") == 0
    assert place.ring() == after


def test_now_announces_a_key_that_is_not_due_and_does_not_cut_it_short(
    place: Desk, capsys: Told
) -> None:
    place.found()
    assert keys("rotate", "--now", "--json") == 0
    told, ring = as_json(capsys), place.ring()
    new, old = ring.keys
    assert told["announced"][0]["kid"] == new.kid.hex()
    assert told["primary"] == old.kid.hex()
    assert new.activates_at == ring.updated_at + DEFAULT.announce


def test_for_cron_it_is_quiet(file: Desk, capsys: Told) -> None:
    file.found(DAY)
    for _ in range(2):
        assert keys("rotate", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert len(file.ring().keys) == 2


def test_twenty_rotators_at_once_announce_one_key(place: Desk, capsys: Told) -> None:
    place.found(DAY)
    assert set(in_threads(20, lambda *_: keys("rotate"))) == {0}
    assert len(place.ring().keys) == 2
    assert capsys.readouterr().out.count("is announced; it seals from") == 1


def test_twenty_who_insist_at_once_get_one_key(file: Desk, capsys: Told) -> None:
    file.found()
    assert set(in_threads(20, lambda *_: keys("rotate", "--now"))) == {0}
    assert len(file.ring().keys) == 2
    assert capsys.readouterr().out.count("is announced already; it seals from") == 19


def test_who_loses_a_race_starts_from_what_is_there(place: Desk) -> None:
    place.found()
    overtaken: list[Ring] = []

    def change(ring: Ring, now: int) -> Ring:
        if not overtaken:
            overtaken.append(ring)
            place.put(rotate(ring, DEFAULT, now, os.urandom, force=True))
        return rotate(ring, DEFAULT, now, os.urandom, force=True)

    with opened(Namespace(config=None, keys=None)) as source:
        before, after, _ = changed(source, change)
    assert before.sequence == overtaken[0].sequence + 1
    assert place.ring() == after
    assert len(after.keys) == 3


def test_what_has_expired_long_ago_is_destroyed_and_counted(file: Desk, capsys: Told) -> None:
    ring, now = file.found(60 * DAY), int(time.time())
    for day in range(59, 0, -1):
        ring = rotate(ring, DEFAULT, now - day * DAY, os.urandom)
    file.put(ring)
    assert keys("rotate") == 0
    gone = len(file.ring().tombstones) - len(ring.tombstones)
    assert gone
    assert re.search(rf"{gone} expired keys? (is|are) destroyed\.", capsys.readouterr().out)


def test_a_configuration_that_promises_more_lengthens_the_ring_at_once(
    place: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    ring = place.found()
    wider = {"SEALEDSTATE_ABSOLUTE_LIFETIME": "172800", "SEALEDSTATE_RELOAD_EVERY": "1200"}
    place.environ |= wider
    with pytest.raises(ConfigurationError, match="must be at least"):
        place.node()
    for name, text in wider.items():
        monkeypatch.setenv(name, text)
    assert keys("rotate") == 0
    assert "The ring's schedule is now that of the configuration" in capsys.readouterr().out
    after = place.ring()
    assert (after.schedule.keep, after.schedule.announce) == (172860, 2460)
    assert (after.keys, after.sequence) == (ring.keys, ring.sequence + 1)
    place.node()
    assert keys("rotate") == 0
    assert place.ring() == after


def test_one_that_promises_less_changes_nothing(
    place: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = place.found()
    monkeypatch.setenv("SEALEDSTATE_ABSOLUTE_LIFETIME", "7200")
    monkeypatch.setenv("SEALEDSTATE_ROTATE_EVERY", "3600")
    assert keys("rotate") == 0
    assert place.ring() == ring


def test_a_path_alone_says_nothing_of_a_schedule(
    file: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    hourly = replace(DEFAULT, rotate_every=HOUR, keep=HOUR)
    file.found(DAY, hourly)
    monkeypatch.delenv("SEALEDSTATE_KEYS")
    assert keys("rotate", str(file.path)) == 0
    assert file.ring().schedule == hourly
    assert len(file.ring().keys) == 2

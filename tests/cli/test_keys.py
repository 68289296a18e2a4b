"""``sealedstate keys generate``, ``init`` and ``rotate``, alone and against others."""

from __future__ import annotations

import json
import os
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sealedstate import ConfigurationError
from sealedstate.cli import main
from sealedstate.cli._source import open_ring
from sealedstate.cli.keys import write_change
from sealedstate.keyring import Key, parse_lookup
from sealedstate.rotation.ring import Ring
from sealedstate.rotation.transitions import rotate
from sealedstate.testing._workers import run_in_threads
from tests.support.ring_cli import (
    DAY,
    DEFAULT,
    HOUR,
    KEK,
    Desk,
    desk,
    finding,
    keys_json,
    output,
    run,
    usage_error,
)

# --- generate -----------------------------------------------------------------------------------


def test_generated_keys_can_be_used(file: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Key.parse(output("keys", "generate")) for _ in range(2))
    assert first.secret != second.secret
    assert len(parse_lookup(output("keys", "generate", "--lookup"))) == 32
    kek = output("keys", "generate", "--kek").strip()
    monkeypatch.setenv("SEALEDSTATE_KEK", kek)
    assert run("keys", "init").code == 0
    assert json.loads(file.path.read_text())["wrapped_by"] == Key.parse(kek).kid.hex()


def test_key_encryption_key_is_replaced_while_all_nodes_read_the_ring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = Key.generate(os.urandom)
    for kind in ("wrapped file", "store"):
        with desk(kind, tmp_path, monkeypatch) as place:
            ring = place.create()
            # Each step on one node after the other.
            for kek in (f"{KEK} {new.export()}", f"{new.export()} {KEK}"):
                monkeypatch.setenv("SEALEDSTATE_KEK", kek)
                assert run("keys", "rotate", "--now").code == 0
                assert place.node().ring.lookup == ring.lookup
                place.environ["SEALEDSTATE_KEK"] = kek
            monkeypatch.setenv("SEALEDSTATE_KEK", new.export())
            assert run("keys", "list").code == 0


# --- init ---------------------------------------------------------------------------------------


def test_init_creates_a_ring_that_an_application_uses(place: Desk) -> None:
    before = os.umask(0)
    try:
        created, text = keys_json("init"), run("keys", "init", str(place.path) + ".2.json").out
    finally:
        os.umask(before)
    ring, is_file = place.ring(), place.keys.startswith("file:")
    assert created == {
        "where": place.storage.location,
        "changed": True,
        "ring": ring.ring_id,
        "sequence": 1,
        "primary": place.kids()[0],
        "wrapped": "SEALEDSTATE_KEK" in place.environ,
        "mode": "0600" if is_file else None,
    }
    if is_file:
        assert stat.S_IMODE(place.path.stat().st_mode) == 0o600
    assert f"{place.path}.2.json (mode 0600)" in text
    assert place.node().keyring().primary(int(time.time())).kid == ring.keys[0].kid


def test_init_warns_of_plaintext_keys(file: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    err = run("keys", "init").err
    assert "SEALEDSTATE_KEK is not set" in err
    assert "`sealedstate keys generate --kek` prints" in err
    file.path.unlink()
    Path(f"{file.path}.lock").unlink()
    monkeypatch.setenv("SEALEDSTATE_KEK", KEK)
    assert run("keys", "init").err == ""


def test_init_leaves_an_existing_ring_alone(place: Desk) -> None:
    ring = place.create()
    assert "exists already; nothing was done" in finding("keys", "init")
    assert place.ring() == ring


@pytest.mark.slow
def test_one_of_many_creates_the_ring(place: Desk) -> None:
    codes = run_in_threads(5, lambda *_: main(["keys", "init"]))
    assert sorted(codes) == [0, 1, 1, 1, 1]
    assert place.ring().sequence == 1


def test_ring_that_would_break_a_promise_is_not_created(
    file: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEALEDSTATE_ANNOUNCE", "30")
    assert "must be at least reload_every (60 s) + skew (60 s)" in usage_error("keys", "init")
    assert not file.path.exists()


def test_missing_directory_and_missing_kek_are_named(
    file: Desk, stored: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = file.path.parent / "no" / "keys.json"
    assert "No such file" in finding("keys", "init", str(nowhere))
    monkeypatch.delenv("SEALEDSTATE_KEK")
    for action in ("init", "list", "rotate", "check"):
        assert "SEALEDSTATE_KEK" in usage_error("keys", action)


# --- rotate -------------------------------------------------------------------------------------


def test_rotate_does_nothing_if_no_key_is_due(place: Desk) -> None:
    ring = place.create(HOUR)
    assert output("keys", "rotate").startswith("No key is due; the next key is announced in 22 h ")
    result = keys_json("rotate")
    assert (result["changed"], result["announced"]) == (False, [])
    assert place.ring() == ring


def test_rotate_announces_a_key_that_is_due_once(place: Desk) -> None:
    ring = place.create(DAY)
    result, after = keys_json("rotate"), place.ring()
    new = after.keys[0]
    assert new.kid != ring.keys[0].kid
    assert new.activates_at >= after.updated_at + DEFAULT.announce
    assert [key["kid"] for key in result["announced"]] == [new.kid.hex()]
    assert output("keys", "rotate").startswith(f"{new.kid.hex()} is already announced and seals ")
    assert place.ring() == after


def test_forced_key_is_announced_like_any_other(place: Desk) -> None:
    place.create()
    result, ring = keys_json("rotate", "--now"), place.ring()
    new, old = ring.keys
    assert result["announced"][0]["kid"] == new.kid.hex()
    assert result["primary"] == old.kid.hex()
    assert new.activates_at == ring.updated_at + DEFAULT.announce


def test_rotate_is_quiet_for_cron(file: Desk) -> None:
    file.create(DAY)
    for _ in range(2):
        assert run("keys", "rotate", "--quiet") == (0, "", "")
    assert len(file.ring().keys) == 2


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--now"]], ids=["due", "forced"])
def test_twenty_rotators_at_once_announce_one_key(
    place: Desk, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    place.create(0 if arguments else DAY)
    codes = run_in_threads(20, lambda *_: main(["keys", "rotate", *arguments]))
    assert set(codes) == {0}
    assert len(place.ring().keys) == 2
    out = capsys.readouterr().out
    assert out.count("is announced and seals from") == 1
    assert out.count("is already announced and seals from") == 19


def test_change_that_loses_a_race_starts_from_the_ring_that_is_there(place: Desk) -> None:
    place.create()
    overtaken: list[Ring] = []

    def change(ring: Ring, now: int) -> Ring:
        if not overtaken:
            overtaken.append(ring)
            place.put(rotate(ring, DEFAULT, now, os.urandom, force=True))
        return rotate(ring, DEFAULT, now, os.urandom, force=True)

    with open_ring() as source:
        written = write_change(source, change)
    assert written.before is not None
    assert written.before.sequence == overtaken[0].sequence + 1
    assert place.ring() == written.after
    assert len(written.after.keys) == 3


def test_rotate_destroys_and_counts_expired_keys(file: Desk) -> None:
    ring, now = file.create(60 * DAY), int(time.time())
    for day in range(59, 0, -1):
        ring = rotate(ring, DEFAULT, now - day * DAY, os.urandom)
    file.put(ring)
    text = output("keys", "rotate")
    destroyed = len(file.ring().tombstones) - len(ring.tombstones)
    assert destroyed
    assert f"{destroyed} expired key" in text


def test_configuration_that_promises_more_extends_the_ring_at_once(
    place: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = place.create()
    longer = {"SEALEDSTATE_ABSOLUTE_LIFETIME": "172800", "SEALEDSTATE_RELOAD_EVERY": "1200"}
    place.environ |= longer
    with pytest.raises(ConfigurationError, match="must be at least"):
        place.node()
    for name, text in longer.items():
        monkeypatch.setenv(name, text)
    assert "now keeps the promises of the configuration" in output("keys", "rotate")
    after = place.ring()
    assert (after.schedule.keep, after.schedule.announce) == (172860, 2460)
    assert (after.keys, after.sequence) == (ring.keys, ring.sequence + 1)
    place.node()
    # A shorter promise changes nothing.
    monkeypatch.setenv("SEALEDSTATE_ABSOLUTE_LIFETIME", "7200")
    monkeypatch.setenv("SEALEDSTATE_ROTATE_EVERY", "3600")
    assert run("keys", "rotate").code == 0
    assert place.ring() == after


def test_path_alone_says_nothing_of_a_schedule(file: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    hourly = replace(DEFAULT, rotate_every=HOUR, keep=HOUR)
    file.create(DAY, hourly)
    monkeypatch.delenv("SEALEDSTATE_KEYS")
    assert run("keys", "rotate", str(file.path)).code == 0
    assert file.ring().schedule == hourly
    assert len(file.ring().keys) == 2

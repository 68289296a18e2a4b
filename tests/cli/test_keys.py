"""``sealedstate keys generate``, ``init``, ``rotate``, ``revoke``, ``disable`` and ``enable``."""

from __future__ import annotations

import json
import os
import stat
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sealedstate import ConfigurationError
from sealedstate.cli import main
from sealedstate.cli._output import format_exact
from sealedstate.cli._source import open_deployment, source_of
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
    assert "directory that does not exist" in finding("keys", "init", str(nowhere))
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

    with open_deployment() as deployment:
        written = write_change(source_of(deployment, False), change)
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


ACTIONS = ("revoke", "disable", "enable")


# --- revoke a key -------------------------------------------------------------------------------


def test_revoked_primary_is_replaced_in_the_same_write(place: Desk) -> None:
    ring = place.create(HOUR)
    (kid,) = place.kids()
    result = keys_json("revoke", kid, "--reason", "laptop stolen")
    after = place.ring()
    assert after.sequence == ring.sequence + 1
    assert kid not in place.kids()
    (dead,) = after.tombstones
    assert (dead.kid.hex(), dead.revoked, dead.reason) == (kid, True, "laptop stolen")
    primary = after.primary(int(time.time()))
    assert primary is not None
    assert (result["changed"], result["primary"]) == (True, primary.kid.hex())
    assert output("keys", "revoke", kid) == f"{kid} is already revoked.\n"
    assert place.ring() == after


def test_window_is_printed_and_kept(place: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    ring, ticks = place.create(), [0.0]
    node = place.node(reload_every=7, monotonic=lambda: ticks[0])
    monkeypatch.setenv("SEALEDSTATE_RELOAD_EVERY", "7")
    text = output("keys", "revoke", place.kids()[0])
    after = place.ring()
    assert text.splitlines()[1] == f"{after.keys[0].kid.hex()} takes its place and seals at once."
    assert f"Until {format_exact(after.updated_at + 8)}, a process" in text
    assert "(reload_every 7 s + 1 s)" in text
    assert node.keyring().find(ring.keys[0].kid)
    ticks[0] = 7.0
    assert node.keyring().find(ring.keys[0].kid) is None
    assert ring.keys[0].kid in node.keyring().removed_kids


def test_window_is_in_the_json_and_is_an_assumption_without_a_configuration(
    file: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.create()
    monkeypatch.setenv("SEALEDSTATE_RELOAD_EVERY", "7")
    result = keys_json("revoke", file.kids()[0])
    in_force_by = datetime.fromisoformat(result["in_force_by"])
    assert in_force_by == datetime.fromtimestamp(file.ring().updated_at + 8, UTC)
    for name in ("KEYS", "RELOAD_EVERY"):
        monkeypatch.delenv(f"SEALEDSTATE_{name}")
    text = output("keys", "revoke", file.kids()[0], "--keys", file.keys)
    assert "(reload_every 60 s + 1 s, if that is their setting)" in text


@pytest.mark.parametrize("reason", ["two\nlines", "\x1b[31m", "x" * 201])
def test_reason_must_be_one_line(file: Desk, reason: str) -> None:
    ring = file.create()
    assert "one line" in usage_error("keys", "revoke", file.kids()[0], "--reason", reason)
    assert file.ring() == ring


def with_kids(place: Desk, *kids: str) -> Ring:
    """Put a ring there with keys of these kids."""
    ring = place.create()
    (key,) = ring.keys
    made = [
        replace(
            key, kid=bytes.fromhex(kid), secret=os.urandom(32), activates_at=key.activates_at - n
        )
        for n, kid in enumerate(kids)
    ]
    return place.put(replace(ring, sequence=ring.sequence + 1, keys=tuple(made)))


@pytest.mark.parametrize("prefix", ["7f3a", "7F3A", "7f3a0b1", "7f3a0b1c", " 7f3a "])
def test_four_digits_of_a_kid_are_enough(file: Desk, prefix: str) -> None:
    with_kids(file, "7f3a0b1c", "7f3b0b1c")
    assert keys_json("disable", prefix)["changed"]
    assert [key.kid.hex() for key in file.ring().keys if key.disabled_at] == ["7f3a0b1c"]


def test_kid_that_is_ambiguous_missing_or_malformed_is_refused(file: Desk) -> None:
    ring = with_kids(file, "7f3a0b1c", "7f3affff")
    for action in ACTIONS:
        assert "it may be 7f3a0b1c, 7f3affff" in usage_error("keys", action, "7f3a")
        assert "the ring has no key 0000" in usage_error("keys", action, "0000")
        for kid in ("", "7f3", "7f3a0b1c0", "xyzw", "７f3a", "7f3a 0b1c", "7f3a\n0"):
            assert "KID must be 8 hex digits" in usage_error("keys", action, kid)
    assert file.ring() == ring


# --- revoke what is old -------------------------------------------------------------------------


def test_everything_sealed_before_a_time_is_revoked(place: Desk) -> None:
    ring = place.create(DAY)
    texts = []
    for text in ("2026-01-02T03:04:05Z", "2026-01-02T05:04:05+02:00"):
        texts.append(output("keys", "revoke", "--before", text))
        assert place.ring().revoked_before == 1767323045
    assert place.ring().keys == ring.keys
    assert texts[0].startswith("Everything sealed before 2026-01-02 03:04:05Z (")
    assert "(reload_every 60 s + 1 s)" in texts[0]
    assert texts[1] == "Everything sealed before 2026-01-02 03:04:05Z is already revoked.\n"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90s", 90), ("30m", 1800), ("30min", 1800), ("7d", 7 * DAY), ("0s", 0)],
)
def test_time_may_be_a_duration(file: Desk, text: str, seconds: int) -> None:
    file.create()
    keys_json("revoke", "--before", text)
    ring = file.ring()
    assert ring.updated_at - 1 <= ring.revoked_before + seconds <= ring.updated_at


def test_time_must_be_valid_and_past(file: Desk) -> None:
    ring = file.create()
    assert "must be in the past" in usage_error("keys", "revoke", "--before=2999-01-01T00:00:00Z")
    for text in (
        *("", "yesterday", "2026-01-02T03:04:05", "2026-01-02", "1767323045", "-2h", "2w", "h"),
    ):
        assert "expected a time" in usage_error("keys", "revoke", f"--before={text}")
    for text in ("999999999999d", "0001-01-01T00:00:00Z"):
        assert "Nothing was sealed before" in output("keys", "revoke", "--before", text)
    assert file.ring() == ring


def test_revoke_needs_a_key_or_a_time(file: Desk) -> None:
    file.create()
    for arguments in ([], [file.kids()[0], "--before", "2h"]):
        assert "either KID or --before" in usage_error("keys", "revoke", *arguments)
    before_and_reason = ["--before", "2h", "--reason", "x"]
    assert "--reason needs a KID" in usage_error("keys", "revoke", *before_and_reason)


def test_disabled_primary_is_replaced_and_opens_again_when_enabled(place: Desk) -> None:
    place.create(HOUR)
    (kid,) = place.kids()
    text = output("keys", "disable", kid[:4])
    assert f"{kid} is disabled until `sealedstate keys enable {kid}`." in text
    assert "takes its place and seals at once." in text
    assert "(reload_every 60 s + 1 s)" in text
    key = place.node().keyring().find(bytes.fromhex(kid))
    assert key is not None
    assert key.disabled
    assert f"{kid} is already disabled." in output("keys", "disable", kid)
    assert "each process opens what it sealed again" in output("keys", "enable", kid)
    assert f"{kid} is not disabled." in output("keys", "enable", kid)
    assert len(place.ring().keys) == 2
    assert not any(key.disabled_at for key in place.ring().keys)


def test_ring_is_named_by_its_path_in_every_command_that_changes_it(file: Desk) -> None:
    ring = file.create()
    kid, path = ring.keys[0].kid.hex(), str(file.path)
    for action in ("disable", "enable", "revoke"):
        assert keys_json(action, kid, path)["changed"]
    assert "name the ring by --keys" in usage_error("keys", "revoke", "--before", "2h", path)


def test_check_does_not_complain_of_clocks_without_a_tolerated_difference(
    file: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEALEDSTATE_SKEW", "0")
    assert run("keys", "init").code == 0
    assert run("keys", "rotate", "--now").code == 0
    assert run("keys", "check").code == 0


def test_secrets_of_the_ring_may_be_in_files_for_the_command_line_too(
    wrapped: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kek = tmp_path / "kek"
    kek.write_text(f"{KEK}\n")
    kek.chmod(0o600)
    monkeypatch.delenv("SEALEDSTATE_KEK")
    monkeypatch.setenv("SEALEDSTATE_KEK_FILE", str(kek))
    monkeypatch.delenv("SEALEDSTATE_KEYS", raising=False)
    monkeypatch.setenv("SEALEDSTATE_KEYS_FILE", str(wrapped.path))
    assert keys_json("init")["wrapped"]
    assert run("keys", "check").code == 0

"""``sealedstate keys revoke``, ``disable`` and ``enable``: what is refused, and from when on."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sealedstate.cli._output import format_exact
from sealedstate.rotation.ring import Ring
from tests.support.ring_cli import DAY, HOUR, Desk, keys_json, output, usage_error

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


# --- kids ---------------------------------------------------------------------------------------


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


# --- disable and enable -------------------------------------------------------------------------


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

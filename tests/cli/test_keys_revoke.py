"""``sealedstate keys revoke``, ``disable`` and ``enable``: what is refused, from when on, and how a
key is named.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sealedstate.cli import output as wording
from sealedstate.rotation.ring import Ring
from tests.support.ring_cli import DAY, HOUR, Desk, Told, as_json, keys, kids, wrong_usage

# --- revoke a key -------------------------------------------------------------------------------


def test_a_revoked_primary_is_replaced_in_the_same_write(place: Desk, capsys: Told) -> None:
    ring = place.found(HOUR)
    (kid,) = kids(ring)
    assert keys("revoke", kid, "--reason", "laptop stolen") == 0
    after = place.ring()
    assert after.sequence == ring.sequence + 1
    assert kid not in kids(after)
    (dead,) = after.tombstones
    assert (dead.kid.hex(), dead.revoked, dead.reason) == (kid, True, "laptop stolen")
    primary = after.primary(int(time.time()))
    assert primary is not None
    told = capsys.readouterr().out
    assert told.startswith(f"{kid} is revoked, for good.\n{primary.kid.hex()} seals in its place")


def test_the_window_is_told_and_kept(
    place: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    ring, ticks = place.found(), [0.0]
    node = place.node(reload_every=7, monotonic=lambda: ticks[0])
    monkeypatch.setenv("SEALEDSTATE_RELOAD_EVERY", "7")
    assert keys("revoke", kids(ring)[0]) == 0
    told = capsys.readouterr().out
    until = wording.exact(place.ring().updated_at + 8)
    assert f"Until {until}, a process that has not looked again may still accept" in told
    assert "(reload_every 7 s + 1 s); one that can't read the ring, for longer" in told
    assert node.keyring().find(ring.keys[0].kid)
    ticks[0] = 7.0
    assert node.keyring().find(ring.keys[0].kid) is None
    assert ring.keys[0].kid in node.keyring().gone


def test_as_json_too_it_is_told(file: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Told) -> None:
    ring = file.found()
    monkeypatch.setenv("SEALEDSTATE_RELOAD_EVERY", "7")
    assert keys("revoke", kids(ring)[0], "--json") == 0
    told = as_json(capsys)
    in_force_by = datetime.fromisoformat(told["in_force_by"])
    assert in_force_by == datetime.fromtimestamp(file.ring().updated_at + 8, UTC)
    assert told["changed"] is True


def test_where_nothing_says_how_often_nodes_reload_the_window_is_a_guess(
    file: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    ring = file.found()
    monkeypatch.delenv("SEALEDSTATE_KEYS")
    assert keys("revoke", kids(ring)[0], "--keys", file.keys) == 0
    assert "(reload_every 60 s + 1 s, if that is what they have)" in capsys.readouterr().out


def test_revoking_again_changes_nothing(place: Desk, capsys: Told) -> None:
    (kid,) = kids(place.found())
    assert keys("revoke", kid) == 0
    ring = place.ring()
    capsys.readouterr()
    assert keys("revoke", kid) == 0
    assert capsys.readouterr().out == f"{kid} was revoked already.\n"
    assert place.ring() == ring


@pytest.mark.parametrize("reason", ["two\nlines", "\x1b[31m", "x" * 201])
def test_a_reason_that_would_not_list_well_is_refused(
    file: Desk, reason: str, capsys: Told
) -> None:
    ring = file.found()
    assert "one line" in wrong_usage(capsys, "revoke", kids(ring)[0], "--reason", reason)
    assert file.ring() == ring


# --- kids ---------------------------------------------------------------------------------------


def named(ring: Ring, *kids: str) -> Ring:
    """A ring with keys of these kids, all of one age."""
    (key,) = ring.keys
    made = [
        replace(
            key, kid=bytes.fromhex(kid), secret=os.urandom(32), activates_at=key.activates_at - n
        )
        for n, kid in enumerate(kids)
    ]
    return replace(ring, sequence=ring.sequence + 1, keys=tuple(made))


@pytest.mark.parametrize("prefix", ["7f3a", "7F3A", "7f3a0b1", "7f3a0b1c", " 7f3a "])
def test_four_digits_of_a_kid_are_enough(file: Desk, prefix: str) -> None:
    file.put(named(file.found(), "7f3a0b1c", "7f3b0b1c"))
    assert keys("disable", prefix) == 0
    assert [key.kid.hex() for key in file.ring().keys if key.disabled_at] == ["7f3a0b1c"]


def test_digits_that_may_mean_two_keys_name_both(file: Desk, capsys: Told) -> None:
    ring = file.put(named(file.found(), "7f3a0b1c", "7f3affff"))
    for action in ("revoke", "disable", "enable"):
        assert "7f3a may be any of 7f3a0b1c, 7f3affff" in wrong_usage(capsys, action, "7f3a")
    assert file.ring() == ring


@pytest.mark.parametrize("kid", ["", "7f3", "7f3a0b1c0", "xyzw", "７f3a", "7f3a 0b1c", "7f3a\n0"])
def test_what_is_no_kid_is_refused(file: Desk, kid: str, capsys: Told) -> None:
    ring = file.put(named(file.found(), "7f3a0b1c"))
    for action in ("revoke", "disable", "enable"):
        assert "a KID is 8 hex digits" in wrong_usage(capsys, action, kid)
    assert file.ring() == ring


def test_a_kid_that_is_not_there_is_refused(place: Desk, capsys: Told) -> None:
    ring = place.put(named(place.found(), "7f3a0b1c"))
    for action in ("revoke", "disable", "enable"):
        assert "the ring has no key 0000" in wrong_usage(capsys, action, "0000")
    assert place.ring() == ring


# --- revoke what is old -------------------------------------------------------------------------


def test_what_was_sealed_before_a_time_is_revoked(place: Desk, capsys: Told) -> None:
    ring = place.found(DAY)
    for text in ("2026-01-02T03:04:05Z", "2026-01-02T05:04:05+02:00"):
        assert keys("revoke", "--before", text) == 0
        assert place.ring().revoked_before == 1767323045
    assert kids(place.ring()) == kids(ring)
    told = capsys.readouterr().out
    assert told.startswith("All that was sealed before 2026-01-02 03:04:05Z (")
    assert "(reload_every 60 s + 1 s)" in told
    assert told.endswith("All that was sealed before 2026-01-02 03:04:05Z is revoked already.\n")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90s", 90), ("30m", 1800), ("30min", 1800), ("7d", 7 * DAY), ("0s", 0)],
)
def test_a_time_may_be_told_by_how_long_ago_it_was(file: Desk, text: str, seconds: int) -> None:
    file.found()
    assert keys("revoke", "--before", text) == 0
    ring = file.ring()
    assert ring.updated_at - 1 <= ring.revoked_before + seconds <= ring.updated_at


def test_the_future_can_not_be_revoked(place: Desk, capsys: Told) -> None:
    ring = place.found()
    told = wrong_usage(capsys, "revoke", "--before", "2999-01-01T00:00:00Z")
    assert "must be in the past" in told
    assert place.ring() == ring


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-01-02T03:04:05", "2026-01-02", "1767323045", "-2h", "2w", "h"]
)
def test_what_is_no_time_is_refused(file: Desk, text: str, capsys: Told) -> None:
    ring = file.found()
    assert "a time reads 2026-11-22T08:00:00Z" in wrong_usage(capsys, "revoke", f"--before={text}")
    assert file.ring() == ring


@pytest.mark.parametrize("text", ["999999999999d", "0001-01-01T00:00:00Z"])
def test_before_all_time_nothing_was_sealed(file: Desk, text: str, capsys: Told) -> None:
    ring = file.found()
    assert keys("revoke", "--before", text) == 0
    assert capsys.readouterr().out == "Nothing was sealed before that time.\n"
    assert file.ring() == ring


def test_revoke_wants_a_key_or_a_time(file: Desk, capsys: Told) -> None:
    (kid,) = kids(file.found())
    for arguments in ([], [kid, "--before", "2h"]):
        assert "revoke a KID, or what" in wrong_usage(capsys, "revoke", *arguments)
    assert "goes with a KID" in wrong_usage(capsys, "revoke", "--before", "2h", "--reason", "x")


# --- disable and enable -------------------------------------------------------------------------


def test_a_disabled_primary_is_replaced_and_opens_again_when_enabled(
    place: Desk, capsys: Told
) -> None:
    (kid,) = kids(place.found(HOUR))
    assert keys("disable", kid[:4]) == 0
    told = capsys.readouterr().out
    assert f"{kid} is disabled, until `sealedstate keys enable {kid}`." in told
    assert "seals in its place, at once." in told
    assert "(reload_every 60 s + 1 s)" in told
    assert place.node().keyring().find(bytes.fromhex(kid)).disabled  # type: ignore[union-attr]
    assert keys("disable", kid) == 0
    assert keys("enable", kid) == 0
    assert keys("enable", kid) == 0
    told = capsys.readouterr().out
    assert f"{kid} was disabled already." in told
    assert f"{kid} is enabled: each process opens what it sealed again" in told
    assert f"{kid} is not disabled." in told
    assert len(place.ring().keys) == 2
    assert not any(key.disabled_at for key in place.ring().keys)

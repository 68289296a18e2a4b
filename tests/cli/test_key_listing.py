"""``sealedstate keys list``: the timeline, the cookies that come, and the processes."""

from __future__ import annotations

import os
import time
from dataclasses import replace

from hypothesis import given

from sealedstate.cli import _key_listing, _output
from sealedstate.rotation.ring import Ring, RingKey, Tombstone
from sealedstate.rotation.transitions import create_ring, disable, rotate
from tests.support.ring_cli import DAY, DEFAULT, HOUR, Desk, keys_json, output, run
from tests.support.rings import Moment, walks

NOW = 1_795_334_400  # 2026-11-22T08:00:00Z


def row(text: str, kid: str) -> list[str]:
    """The words of the first line that begins with a kid."""
    return next(line for line in text.splitlines() if line.startswith(kid)).split()


def kid_of(key: RingKey) -> str:
    return key.kid.hex()


def daily(days: int) -> Ring:
    """A ring that rotated each day, and whose last key is active since an hour before NOW."""
    since = NOW - HOUR - days * DAY
    ring = create_ring(DEFAULT, since, os.urandom)
    for day in range(1, days + 1):
        ring = rotate(ring, DEFAULT, since + day * DAY - DEFAULT.announce, os.urandom)
    return ring


def test_table_has_the_state_dates_and_cookies_of_each_key() -> None:
    ring = daily(2)
    new, old, _ = ring.keys
    lines = _key_listing.table_of_keys(ring, NOW, {kid_of(new): 7, kid_of(old): 12_345_678})
    for name in _key_listing.HEAD:
        assert name in lines[0]
    at = {line[:8]: line for line in lines if line[:8].strip() and line is not lines[0]}
    assert at[kid_of(new)].split()[1] == "primary"
    assert at[kid_of(old)].split()[1] == "retired"
    assert [at[kid_of(key)].rstrip()[-4:] for key in ring.keys] == ["   7", "12 M", "   0"]
    for key in ring.keys:
        for date in (key.created_at, key.activates_at, ring.retires_at(key), ring.expires_at(key)):
            assert (_output.format_minute(date) if date else "-") in at[kid_of(key)]
    below = lines[lines.index(at[kid_of(old)]) + 1]
    assert _output.relative(old.activates_at, NOW) in below


def test_every_state_has_its_name(place: Desk) -> None:
    now = int(time.time())
    ring = create_ring(DEFAULT, now - 2 * DAY, os.urandom)
    ring = rotate(ring, DEFAULT, now - HOUR, os.urandom)  # late
    ring = rotate(ring, DEFAULT, now, os.urandom, force=True)
    pending, primary, retired = ring.keys
    ring = place.put(replace(disable(ring, retired.kid, now, os.urandom), sequence=1))
    states = {pending: "pending", primary: "primary", retired: "disabled"}
    found = keys_json("list")
    assert {key["kid"]: key["state"] for key in found["keys"]} == {
        kid_of(key): state for key, state in states.items()
    }
    text = output("keys", "list")
    for key, state in states.items():
        assert row(text, kid_of(key))[1] == state
    assert (found["where"], found["ring"]) == (place.storage.location, ring.ring_id)
    assert found["schedule"] == {"rotate_every": DAY, "announce": 900, "keep": 43260, "skew": 60}
    assert found["keys"][0]["created_at"] == _output.format_iso(pending.created_at)
    assert found["keys"][0]["retires_at"] is None


# --- the drawing --------------------------------------------------------------------------------


def bars(ring: Ring, now: int) -> dict[str, str]:
    """The bar of each kid."""
    lines = _key_listing.draw(ring, now)
    return {line[:8]: line[10:] for line in lines if line[:8].strip()}


def test_keys_are_drawn_one_after_the_other() -> None:
    ring = rotate(daily(1), DEFAULT, NOW, os.urandom, force=True)
    pending, primary, retired = (bars(ring, NOW)[kid_of(key)] for key in ring.keys)
    assert set(pending.strip()) <= set(".#|")
    assert set(primary.strip()) <= set(".#-")
    assert retired.rstrip().endswith("-")
    assert retired.index("#") < primary.index("#") < pending.index("#")
    # Each key ends sealing where the next one begins.
    assert retired.rindex("#") + 1 == primary.index("#")


def test_disabled_key_is_crossed_out_from_then_on() -> None:
    ring = create_ring(DEFAULT, NOW - DAY // 2, os.urandom)
    ring = disable(ring, ring.keys[0].kid, NOW, os.urandom)
    drawn = bars(ring, NOW)[kid_of(ring.keys[-1])]
    assert drawn.lstrip()[0] == "#"
    assert drawn.rstrip()[-1] == "x"


def test_key_of_the_far_future_leaves_room_for_the_others() -> None:
    ring = daily(1)
    far = replace(ring.keys[0], kid=b"far!", secret=os.urandom(32), activates_at=NOW + 500 * DAY)
    assert bars(replace(ring, keys=(far, *ring.keys)), NOW)[kid_of(ring.keys[0])].count("#") > 10


@given(walks())
def test_any_ring_fits_into_100_columns(past: list[Moment]) -> None:
    for moment in past:
        for now in (moment.now - 100, moment.now, moment.now + 10 * DAY):
            drawn = _key_listing.draw(moment.ring, now)
            lines = [*_key_listing.table_of_keys(moment.ring, now, {}), *drawn]
            assert max(map(len, lines)) <= 100
            assert len(drawn) == len(moment.ring.keys) + 3
            assert drawn[1].split() in (["|", "now"], ["now", "|"])
            assert all(line[10:].strip() for line in drawn)


def test_cookies_of_all_processes_are_added_up(place: Desk) -> None:
    ring = place.create(HOUR)
    (kid,) = place.kids()
    text = output("keys", "list")
    assert "No process reports." in text
    assert row(text, kid)[-1] == "-"
    place.report(ring, pid=71, opened={kid: 40}, unknown={"deadbeef": 3, "others": 9})
    place.report(ring, pid=72, opened={kid: 2}, refused={kid: 5})
    place.report(ring, node="web2\x1b[2J\nweb9: well", sequence=3, complaint="\x07")
    text, found = output("keys", "list"), keys_json("list")
    assert row(text, kid)[-1] == "42"
    assert row(text, "deadbeef") == ["deadbeef", "3", "cookies"]
    assert "web1: 2 processes, sequence 1, last " in text
    # The name of a node cannot control the terminal.
    assert r"web2\x1b[2J\nweb9: well: 1 process, sequence 3, last " in text
    (key,) = found["keys"]
    assert (key["opened"], key["refused"], key["unknown"]) == (42, 5, 0)
    assert found["unknown"] == {"deadbeef": 3, "others": 9}
    assert [report["pid"] for report in found["reports"]] == [71, 72, 71]


def test_running_process_is_listed(place: Desk) -> None:
    place.create()
    place.node().run_once()
    text = output("keys", "list")
    assert ": 1 process, sequence 1, last " in text
    assert row(text, place.kids()[0])[-1] == "0"


def test_revoked_key_is_listed_with_its_reason(place: Desk) -> None:
    place.create(HOUR)
    (kid,) = place.kids()
    reason = "Laptop in Nové Město gestohlen"
    assert run("keys", "revoke", kid, "--reason", reason).code == 0
    assert run("keys", "revoke", "--before", "1d").code == 0
    place.report(place.ring(), refused={kid: 12})
    text = output("keys", "list")
    line = row(text, kid)
    assert line[1] == "revoked"
    assert " ".join(line[-8:]) == f"12 cookies refused {reason}"
    assert "Cookies sealed before " in text
    (dead,) = keys_json("list")["tombstones"]
    assert (dead["kid"], dead["revoked"], dead["reason"]) == (kid, True, reason)


def test_last_of_many_expired_keys_are_listed(place: Desk) -> None:
    ring, now = place.create(HOUR), int(time.time())
    dead = [
        Tombstone(number.to_bytes(4, "big"), now - DAY, now - number, True, revoked=number == 25)
        for number in range(30)
    ]
    place.put(replace(ring, sequence=2, tombstones=tuple(dead)))
    text = output("keys", "list")
    shown = [line.split()[0] for line in text.split("Destroyed keys:\n")[1].splitlines()[:12]]
    assert shown == ["00000019", *(f"{number:08x}" for number in range(10)), "19"]
    assert "19 more have expired; --json lists them" in text
    assert len(keys_json("list")["tombstones"]) == 30

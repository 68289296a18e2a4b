"""Words, times and tables of the command line."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import ConfigurationError
from sealedstate.cli import _output
from tests.support.ring_cli import HOUR

NOW = 1_795_334_400  # 2026-11-22T08:00:00Z


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
def test_duration_has_two_units_at_most(seconds: float, words: str) -> None:
    assert _output.duration(seconds) == words


def test_time_is_shown_by_its_distance() -> None:
    assert _output.relative(NOW + 3 * HOUR, NOW) == "in 3 h"
    assert _output.relative(NOW - 3 * HOUR, NOW) == "3 h ago"
    assert _output.relative(NOW, NOW) == "now"


@given(st.one_of(st.integers(), st.floats(-1e30, 1e30)))
def test_every_time_can_be_shown(epoch: float) -> None:
    assert _output.format_minute(epoch)[-3] == ":"
    assert _output.format_exact(epoch).endswith("Z")
    assert _output.format_iso(epoch)


@given(st.text())
def test_any_text_is_a_past_time_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        assert isinstance(_output.parse_past(text, NOW), int)


@given(st.text())
def test_sanitized_text_is_one_short_line(text: str) -> None:
    assert _output.sanitized(text).isprintable()
    assert len(_output.sanitized(text, 20)) <= 20


def test_table_aligns_its_columns() -> None:
    assert _output.table([("part", "bytes"), ("cart", 5000), ("c", "")], right=[1]) == [
        "part  bytes",
        "cart   5000",
        "c",
    ]
    assert _output.markdown([("a", "b"), ("1", "2")]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_text_can_be_printed_in_any_encoding(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "shown").open("w", encoding=encoding) as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        _output.echo("Město 🔑")
    assert (tmp_path / "shown").read_text(encoding).startswith("M")

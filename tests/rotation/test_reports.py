"""Reports in files: they are read back, and anything else beside them is ignored."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate.rotation.reports import FileReports, Report

REPORT = Report("node", 1, 100.0, "ring", 1, None, ("7f3a0b1c",), {"7f3a0b1c": 3})
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
CHANGES = st.dictionaries(st.sampled_from(sorted(asdict(REPORT))), ANYTHING, min_size=1)


def test_report_is_read_back_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reports = FileReports(Path("keys.json.nodes"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    reports.put(REPORT, 200.0)
    assert (tmp_path / "keys.json.nodes").is_dir()
    assert reports.all(150.0) == [REPORT]
    assert reports.all(200.0) == []
    assert list((tmp_path / "keys.json.nodes").iterdir()) == []


@given(changes=CHANGES)
def test_text_is_a_report_of_valid_fields_or_refused(changes: dict[str, Any]) -> None:
    try:
        report = Report.parse(json.dumps(asdict(REPORT) | changes))
    except ValueError:
        return
    assert Report.parse(report.dump()) == report
    assert all(type(count) is int for count in report.opened.values())
    assert all(isinstance(kid, str) for kid in report.known)


def test_files_that_are_no_reports_are_ignored(tmp_path: Path) -> None:
    reports = FileReports(tmp_path)
    reports.put(REPORT, 200.0)
    (tmp_path / "folder.json").mkdir()
    for text in ("", "x", "1\n", "nan\n{}", "9e99\n[]", "9e99\n" + "[" * 60_000):
        (tmp_path / "other.json").write_text(text)
        assert reports.all(150.0) == [REPORT]

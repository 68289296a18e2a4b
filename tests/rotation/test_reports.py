"""What the places for reports promise beside what the commands show of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealedstate.rotation.reports import FileReports, Report


def test_the_folder_is_the_same_wherever_the_process_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = FileReports(Path("keys.json.nodes"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    report = Report("node", 1, 100.0, "ring", 1, None, ())
    folder.put(report, 200.0)
    assert (tmp_path / "keys.json.nodes").is_dir()
    assert folder.all(150.0) == [report]

"""``sealedstate store``, run as an operator runs it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from sealedstate.cli import main
from sealedstate.storage import USES, SQLiteStorage


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'store.db'}"


def test_init_makes_a_store_that_answers(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "init", url]) == 0
    assert main(["store", "ping", url]) == 0
    assert "up" in capsys.readouterr().out


def test_ping_of_a_store_that_is_down_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "ping", f"sqlite:{tmp_path / 'no' / 'folder' / 'store.db'}"]) == 1
    assert "down" in capsys.readouterr().out


def test_check_answers_for_every_use(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "check", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["uses"] == {title: [] for title in USES}
    assert main(["store", "check", "memory:"]) == 1
    assert "revocation   no: it only one process sees" in capsys.readouterr().out


def test_reap_and_stats_count(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = SQLiteStorage(tmp_path / "store.db", time.time)
    store.create("sealedstate.part", "dead", b"", 1, 1)
    store.create("sealedstate.part", "alive", b"", None, 1)
    store.close()
    assert main(["store", "stats", url]) == 0
    assert capsys.readouterr().out.split()[:2] == ["sealedstate.part", "1"]
    assert main(["store", "reap", url]) == 0
    assert capsys.readouterr().out.startswith("1 expired")


def test_the_matrix_has_a_row_for_each_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "matrix"]) == 0
    rows = capsys.readouterr().out
    assert all(name in rows for name in ("sqlite", "postgresql", "redis, AOF", "memcached"))


def test_a_url_is_read_from_the_environment(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "ping"]) == 2
    assert "SEALEDSTATE_STORAGE" in capsys.readouterr().err
    monkeypatch.setenv("SEALEDSTATE_STORAGE", url)
    assert main(["store", "ping"]) == 0

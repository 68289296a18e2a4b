"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sealedstate.cli import main
from sealedstate.keyring import Key, parse_lookup


def test_a_generated_key_is_one_that_we_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "generate"]) == 0
    first = capsys.readouterr().out
    assert main(["keys", "generate"]) == 0
    second = capsys.readouterr().out
    assert Key.parse(first).secret != Key.parse(second).secret


def test_a_generated_lookup_key_is_one_that_we_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "generate", "--lookup"]) == 0
    assert len(parse_lookup(capsys.readouterr().out)) == 32


def test_sizes_shows_every_part_in_every_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "session.json"
    session = {"subject": "jdoe", "csrf": {"$base64": "AAECAw=="}, "cart": ["x" * 5000]}
    file.write_text(json.dumps(session))
    assert main(["sizes", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parts"].keys() == {"csrf", "cart"}
    assert found["parts"]["csrf"] == 1 + 4 + 1 + 5
    assert {name: row["places"]["cart"] for name, row in found["profiles"].items()} == {
        "tight": "spilled",
        "portable": "spilled",
        "standard": "spilled",
        "roomy": "overflow",
    }
    assert main(["sizes", str(file)]) == 0
    table = capsys.readouterr().out
    assert "portable" in table
    assert "cookie_bytes" in table


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"x": NaN', '{"x": {"$base64": "?"}}', "[" * 100_000]
)
def test_sizes_of_what_is_no_session_is_one_clear_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "session.json"
    file.write_text(text)
    assert main(["sizes", str(file)]) == 2
    assert "session.json" in capsys.readouterr().err


def test_sizes_of_a_missing_file_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sizes", "no/such/file.json"]) == 2
    assert "no/such/file.json" in capsys.readouterr().err


def test_the_command_is_there_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sealedstate", "keys", "generate"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert Key.parse(done.stdout)

"""``sealedstate sizes``: what a session takes in cookies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.ring_cli import output, run, usage_error

SESSION = {"subject": "jdoe", "csrf": {"$base64": "AAECAw=="}, "cart": ["x" * 5000]}


def test_every_part_is_shown_in_every_profile(tmp_path: Path) -> None:
    file = tmp_path / "session.json"
    file.write_text(json.dumps(SESSION))
    found = json.loads(output("sizes", str(file), "--json"))
    assert found["parts"].keys() == {"csrf", "cart"}
    assert found["parts"]["csrf"] == 1 + 4 + 1 + 5
    assert {name: column["places"]["cart"] for name, column in found["profiles"].items()} == {
        "tight": "spilled",
        "portable": "spilled",
        "standard": "spilled",
        "roomy": "overflow",
    }
    assert run("sizes", "-", "--json", stdin=json.dumps(SESSION).encode()).json == found
    table = {line.split()[0]: line.split()[1:] for line in output("sizes", str(file)).splitlines()}
    assert table["part"] == ["bytes", *found["profiles"]]
    assert table["cart"][1:] == ["spilled", "spilled", "spilled", "overflow"]
    assert table["cookies"] == [str(row["cookies"]) for row in found["profiles"].values()]


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"x": NaN', '{"x": {"$base64": "?"}}', "[" * 100_000, b"\xff"]
)
def test_file_without_a_session_is_wrong_usage(text: str | bytes, tmp_path: Path) -> None:
    file = tmp_path / "session.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "session.json" in usage_error("sizes", str(file))
    assert "no/such/file.json" in usage_error("sizes", "no/such/file.json")

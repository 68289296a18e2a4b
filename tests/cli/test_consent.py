"""``sealedstate consent``: what a user agreed to is listed and withdrawn."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sealedstate.cli import main
from tests.cli.test_keys_reseal import consents, url
from tests.support.ring_cli import Desk, Told, as_json

__all__ = ["url"]

ANN, SP = "ann", "https://sp.example.org/shibboleth"


@pytest.fixture
def kept(place: Desk, url: str) -> str:
    """A store in which somebody agreed to three things, under the ring of the environment."""
    ring = place.found()
    now = int(time.time())
    with consents(url, ring.keyring()) as store:
        store.record(ANN, "terms", 3)
        store.record(ANN, "attributes", 1, now + 86400, SP, ["mail", "name"])
        store.record(ANN, "attributes", 1, None, SP + "2")
        store.record("bob", "terms", 1)
    return url


def test_all_that_a_user_agreed_to_is_listed(kept: str, capsys: Told) -> None:
    assert main(["consent", "list", ANN]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", given")[0] for line in lines] == ["attributes 1"] * 2 + ["terms 3"]
    assert lines[0].endswith(f", for {SP}, with mail, name")
    assert main(["consent", "list", ANN, "--json"]) == 0
    listed = as_json(capsys)
    assert [one["service"] for one in listed] == [SP, SP + "2", None]
    assert listed[0]["attributes"] == ["mail", "name"]
    assert main(["consent", "list", "nobody"]) == 0
    assert capsys.readouterr().out == "Nothing.\n"


def test_one_consent_is_withdrawn_or_all_of_one_user(kept: str, capsys: Told) -> None:
    assert main(["consent", "withdraw", ANN, "--document", "attributes", "--service", SP]) == 0
    assert main(["consent", "withdraw", ANN, "--document", "attributes"]) == 0
    assert main(["consent", "withdraw", ANN]) == 0
    assert main(["consent", "withdraw", ANN]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1 consent is withdrawn.",
        "0 consents are withdrawn.",
        "2 consents are withdrawn.",
        "0 consents are withdrawn.",
    ]
    assert main(["consent", "list", "bob", "--json"]) == 0
    assert len(as_json(capsys)) == 1
    assert main(["consent", "withdraw", "bob", "--json"]) == 0
    assert as_json(capsys) == {"withdrawn": 1}


def test_wrong_usage_is_told(kept: str, capsys: Told) -> None:
    assert main(["consent", "withdraw", ANN, "--service", SP]) == 2
    assert "--service goes with --document" in capsys.readouterr().err
    assert main(["consent", "list", "\ud800"]) == 2
    assert "lone surrogate" in capsys.readouterr().err


def test_a_store_that_is_down_is_told(
    place: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    place.found()
    monkeypatch.setenv("SEALEDSTATE_STORAGE", f"sqlite:{tmp_path / 'missing' / 'x.db'}")
    assert main(["consent", "list", ANN]) == 1
    assert capsys.readouterr().err.startswith("sealedstate: ")

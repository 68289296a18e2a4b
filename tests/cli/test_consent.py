"""``sealedstate consent``: what a user agreed to is listed and withdrawn."""

from __future__ import annotations

import time

import pytest

from tests.cli.test_keys_reseal import consents, url
from tests.support.ring_cli import Desk, finding, output, run, usage_error

__all__ = ["url"]

ANN, SP = "ann", "https://sp.example.org/shibboleth"


@pytest.fixture
def kept(place: Desk, url: str) -> str:
    """A store with three consents of one user, under the ring of the environment."""
    ring = place.create()
    now = int(time.time())
    with consents(url, ring.keyring()) as store:
        store.record(ANN, "terms", 3)
        store.record(ANN, "attributes", 1, now + 86400, SP, ["mail", "name"])
        store.record(ANN, "attributes", 1, None, SP + "2")
        store.record("bob", "terms", 1)
    return url


def test_everything_a_user_agreed_to_is_listed(kept: str) -> None:
    lines = output("consent", "list", ANN).splitlines()
    assert [line.split(", given")[0] for line in lines] == ["attributes 1"] * 2 + ["terms 3"]
    assert lines[0].endswith(f", for {SP}, with mail, name")
    listed = run("consent", "list", ANN, "--json").json
    assert [one["service"] for one in listed] == [SP, SP + "2", None]
    assert listed[0]["attributes"] == ["mail", "name"]
    assert output("consent", "list", "nobody") == "None.\n"


def test_one_consent_is_withdrawn_or_all_of_one_user(kept: str) -> None:
    withdraw = ["consent", "withdraw", ANN, "--json"]
    for arguments, count in (
        (["--document", "attributes", "--service", SP], 1),
        (["--document", "attributes"], 0),
        ([], 2),
        ([], 0),
    ):
        assert run(*withdraw, *arguments).json == {"withdrawn": count}
    assert len(run("consent", "list", "bob", "--json").json) == 1
    assert output("consent", "withdraw", "bob") == "1 consent was withdrawn.\n"


def test_wrong_usage_and_a_store_that_is_down_are_reported(
    file: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.create()
    monkeypatch.setenv("SEALEDSTATE_STORAGE", f"sqlite:{file.path}.db")
    assert "--service needs --document" in usage_error("consent", "withdraw", ANN, "--service", SP)
    assert "surrogate" in usage_error("consent", "list", "\ud800")
    nowhere = f"sqlite:{file.path.parent / 'missing' / 'x.db'}"
    monkeypatch.setenv("SEALEDSTATE_STORAGE", nowhere)
    assert "the store cannot be used" in finding("consent", "list", ANN)
    assert "unusable" in run("consent", "list", ANN, "--json").json

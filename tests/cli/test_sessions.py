"""``sealedstate sessions``, run by an administrator beside an application."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from sealedstate import Keeper, Key, Settings
from sealedstate.cli.sessions import _print
from sealedstate.devices import LiveSession, SessionRegistry
from sealedstate.keyring import export_lookup
from tests.support.jar import Browser
from tests.support.ring_cli import Run, run, usage_error


class Site:
    """An application with a store in a file, and its configuration."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "app.toml"
        keys = [Key.generate(os.urandom).export(), export_lookup(os.urandom(32))]
        (folder / "keys").write_text("\n".join(keys))
        self.config.write_text(
            f'[sealedstate]\nkeys = "file:{folder}/keys"\nstorage = "sqlite:{folder}/store.db"\n'
        )
        self.keeper = Keeper(Settings.from_toml(self.config))
        SessionRegistry(self.keeper, where="node-1")

    def sign_in(self, subject: str) -> Browser:
        browser = Browser(self.keeper)
        browser.visit(lambda session: setattr(session, "subject", subject))
        return browser

    def run(self, *arguments: str) -> Run:
        return run("sessions", *arguments, "--config", str(self.config))

    def listed(self, *arguments: str) -> Any:
        return self.run("list", "--json", *arguments).json


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_list_and_show_have_the_live_sessions(site: Site) -> None:
    ann, _ = site.sign_in("ann"), site.sign_in("bob")
    rows = [line.split() for line in site.run("list").out.splitlines()]
    assert sorted(row[-1] for row in rows) == ["ann", "bob"]
    assert {row[-2] for row in rows} == {"node-1"}
    (listed,) = site.listed("--subject", "ann")
    assert set(listed) == {"id", "subject", "started", "last_seen", "where"}
    assert ann.session().id not in str(rows)
    assert site.run("show", listed["id"], "--json").json == [listed]


def test_one_session_is_ended_or_those_of_a_user_or_all(site: Site) -> None:
    users = {name: site.sign_in(name) for name in ("ann", "bob", "cid", "dot")}
    (ann,) = site.listed("--subject", "ann")
    assert site.run("revoke", ann["id"]) == (0, "1 session ended\n", "")
    assert site.run("revoke", "--subject", "bob", "--json").json == {"revoked": 1}
    assert [users[name].session().subject for name in users] == [None, None, "cid", "dot"]
    assert site.run("revoke", "--all") == (0, "2 sessions ended\n", "")
    assert [users[name].session().subject for name in users] == [None] * 4
    assert site.listed() == []


def test_session_that_is_not_live_is_a_finding(site: Site) -> None:
    for action in ("show", "revoke"):
        code, _, err = site.run(action, "A" * 32)
        assert (code, err) == (1, f"sealedstate: there is no live session {'A' * 32}\n")


def test_revoke_needs_exactly_one_choice(site: Site) -> None:
    for arguments in ([], ["--all", "--subject", "ann"], ["A" * 32, "--all"]):
        code, _, err = site.run("revoke", *arguments)
        assert code == 2
        assert "either IDs, --subject USER or --all" in err


def test_missing_store_or_lookup_key_is_named(tmp_path: Path) -> None:
    config = tmp_path / "app.toml"
    key = Key.generate(os.urandom).export()
    for line, missing in (
        ("", "needs a store"),
        (f'storage = "sqlite:{tmp_path}/x.db"', "lookup key"),
    ):
        config.write_text(f'[sealedstate]\nkeys = ["{key}"]\n{line}\n')
        assert missing in usage_error("sessions", "list", "--config", str(config))


def test_store_that_cannot_be_used_is_a_finding(site: Site) -> None:
    site.sign_in("ann")
    (site.config.parent / "store.db").write_bytes(b"no database at all" * 100)
    result = site.run("list", "--json")
    assert result.code == 1
    assert list(result.json) == ["unusable"]
    assert result.err.startswith("sealedstate: the store cannot be used: ")


def test_subject_with_foreign_letters_is_one_line_in_any_encoding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subject = "ann\n2 forged  row\x1b[2J Jürgen"
    session = LiveSession("1" * 32, subject, 1_795_334_400, 1_795_334_400, "web1\n", "A" * 22)
    with (tmp_path / "shown").open("w", encoding="ascii") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        _print([session], as_json=False)
    (line,) = (tmp_path / "shown").read_text("ascii").splitlines()
    assert line.endswith(r"web1\n  ann\n2 forged  row\x1b[2J J\xfcrgen")

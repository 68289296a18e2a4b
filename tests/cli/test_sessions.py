"""``sealedstate sessions``, run as an administrator runs it, beside an application."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sealedstate import Keeper, Key, Settings
from sealedstate.cli import main
from sealedstate.keyring import export_lookup
from sealedstate.sso import SessionRegistry
from tests.support.jar import Browser

Told = pytest.CaptureFixture[str]


class Site:
    """An application on a store in a file, and its configuration."""

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

    def run(self, told: Told, *arguments: str) -> tuple[int, str, str]:
        code = main(["sessions", *arguments, "--config", str(self.config)])
        out, err = told.readouterr()
        return code, out, err

    def listed(self, told: Told, *arguments: str) -> list[dict[str, object]]:
        code, out, _ = self.run(told, "list", "--json", *arguments)
        assert code == 0
        found: list[dict[str, object]] = json.loads(out)
        return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_the_list_shows_who_is_there(site: Site, capsys: Told) -> None:
    ann, _ = site.sign_in("ann"), site.sign_in("bob")
    code, out, _ = site.run(capsys, "list")
    assert code == 0
    assert sorted(line.split()[-1] for line in out.splitlines()) == ["ann", "bob"]
    assert all(" node-1 " in line for line in out.splitlines())
    (listed,) = site.listed(capsys, "--subject", "ann")
    assert set(listed) == {"id", "subject", "started", "last_seen", "where"}
    assert ann.session().id not in out
    code, out, _ = site.run(capsys, "show", str(listed["id"]), "--json")
    assert (code, json.loads(out)) == (0, [listed])


def test_one_session_is_ended_or_those_of_a_user_or_all(site: Site, capsys: Told) -> None:
    users = {name: site.sign_in(name) for name in ("ann", "bob", "cid", "dot")}
    (ann,) = site.listed(capsys, "--subject", "ann")
    assert site.run(capsys, "revoke", str(ann["id"]))[:2] == (0, "1 sessions ended\n")
    assert site.run(capsys, "revoke", "--subject", "bob", "--json")[:2] == (0, '{"revoked": 1}\n')
    assert [users[name].session().subject for name in users] == [None, None, "cid", "dot"]
    assert site.run(capsys, "revoke", "--all")[:2] == (0, "2 sessions ended\n")
    assert [users[name].session().subject for name in users] == [None] * 4
    assert site.listed(capsys) == []


def test_a_session_that_is_not_there_is_a_finding(site: Site, capsys: Told) -> None:
    for action in ("show", "revoke"):
        code, _, err = site.run(capsys, action, "A" * 32)
        assert (code, err) == (1, f"sealedstate: no live session {'A' * 32}\n")


def test_what_to_end_has_to_be_said(site: Site, capsys: Told) -> None:
    for arguments in ([], ["--all", "--subject", "ann"], ["A" * 32, "--all"]):
        code, _, err = site.run(capsys, "revoke", *arguments)
        assert code == 2
        assert "which sessions?" in err


def test_without_a_lookup_key_or_a_store_it_says_what_is_missing(
    tmp_path: Path, capsys: Told
) -> None:
    config = tmp_path / "app.toml"
    key = Key.generate(os.urandom).export()
    for storage, missing in (("", "needs a store"), ("sqlite:x.db", "lookup key")):
        line = storage and f'storage = "{storage.replace("x.db", str(tmp_path / "x.db"))}"'
        config.write_text(f'[sealedstate]\nkeys = ["{key}"]\n{line}\n')
        assert main(["sessions", "list", "--config", str(config)]) == 2
        assert missing in capsys.readouterr().err


def test_a_store_that_can_not_be_used_is_a_finding(site: Site, capsys: Told) -> None:
    site.sign_in("ann")
    path = site.config.parent / "store.db"
    path.write_bytes(b"no database at all" * 100)
    code, out, err = site.run(capsys, "list", "--json")
    assert code == 1
    assert "unusable" in json.loads(out)
    assert err.startswith("sealedstate: ")

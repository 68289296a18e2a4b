"""docs/runbooks.md: its commands run, and do what the night needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from sealedstate import Keeper, Key, Settings
from sealedstate.storage import SQLiteStorage
from sealedstate.testing import ScriptedStorage
from tests.support.documents import ROOT, Document
from tests.support.jar import Browser, Jar
from tests.support.ring_cli import Run, run

RUNBOOKS = Document("runbooks.md")
KEK = Key.generate(os.urandom).export()


class Site:
    """An application with a ring in a file and a store, in the current directory."""

    def __init__(self) -> None:
        Path("app.toml").write_text(
            '[sealedstate]\nkeys = "file:keys.json"\nstorage = "sqlite:store.db"\n'
            "rotate_in_process = false\n"
        )
        assert run("keys", "init", "--config", "app.toml").code == 0

    @property
    def keys(self) -> list[str]:
        """The kids of the ring, the newest first."""
        ring = json.loads(Path("keys.json").read_text())
        return [key["kid"] for key in ring["keys"]]

    def sign_in(self, subject: str) -> Browser:
        browser = Browser(self.node())
        browser.visit(lambda session: setattr(session, "subject", subject))
        return browser

    def node(self) -> Keeper:
        """A process that starts now."""
        return Keeper(Settings.from_toml("app.toml"))

    def subject(self, jar: Jar) -> str | None:
        """Who is signed in with these cookies at a process that starts now."""
        return self.node().session(jar.header()).subject


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEALEDSTATE_KEK", KEK)
    monkeypatch.setenv("SEALEDSTATE_STORAGE", "sqlite:store.db")
    return Site()


def follow(mark: str, kid: str = "") -> list[Run]:
    """What the commands of a block of the runbooks do."""
    commands = re.findall(r"^ *\$ sealedstate (.*)$", RUNBOOKS.block(mark), re.MULTILINE)
    assert commands
    found = []
    for command in commands:
        command, _, file = command.partition(" < ")
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', command)]
        stdin = Path(file).read_bytes() if file else None
        found.append(run(*(word.replace("KID", kid) for word in words), stdin=stdin))
    return found


def test_commands_that_look_change_nothing(site: Site) -> None:
    jar = site.sign_in("alice").jar
    Path("request.txt").write_text(f"Cookie: {jar.header()}\n")
    ring = Path("keys.json").read_bytes()
    assert [each.code for each in follow("look")] == [0, 0, 0]
    assert Path("keys.json").read_bytes() == ring
    assert site.subject(jar) == "alice"


def test_leaked_key_opens_nothing_and_sign_ins_go_on(site: Site) -> None:
    jar, running = site.sign_in("alice").jar, site.node()
    (kid,) = site.keys
    assert [each.code for each in follow("leaked", kid)] == [0, 0]
    assert site.subject(jar) is None
    assert kid not in site.keys
    assert site.subject(site.sign_in("bob").jar) == "bob"
    # A process that runs gets to know it with the first cookie of the new key.
    assert running.session(site.sign_in("carol").jar.header()).subject == "carol"
    assert running.session(jar.header()).subject is None


def test_lost_ring_is_put_back_from_the_copy_beside_it(site: Site) -> None:
    assert run("keys", "rotate", "--now", "--config", "app.toml").code == 0
    jar = site.sign_in("alice").jar
    Path("keys.json").write_text("{")
    (looked,) = follow("ring")
    assert looked.code == 1
    assert "keys.json.prev" in looked.out
    shutil.copy("keys.json.prev", "keys.json")
    (looked,) = follow("ring")
    assert looked.code == 1  # it is an older copy, and no newer ring exists
    Path("keys.json.lock").unlink()
    assert follow("ring")[0].code == 0
    assert site.subject(jar) == "alice"


def test_key_that_is_due_is_rotated_by_hand(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.time() + 2 * 86400
    monkeypatch.setattr("time.time", lambda: later)
    assert "rotation: " in run("keys", "check", "--config", "app.toml").out
    rotated, checked = follow("rotate")
    assert (rotated.code, len(site.keys)) == (0, 2)
    assert "rotation: " not in checked.out


def test_everybody_is_signed_out_and_a_sign_in_after_that_holds(site: Site) -> None:
    jar = site.sign_in("alice").jar
    assert follow("everybody")[0].code == 0
    assert site.subject(jar) is None
    assert site.subject(site.sign_in("bob").jar) == "bob"


def test_sessions_open_again_once_the_store_answers(site: Site) -> None:
    jar = site.sign_in("alice").jar
    store = ScriptedStorage(time.time, SQLiteStorage("store.db", time.time))
    keeper = Keeper(Settings.from_toml("app.toml", storage=store))
    store.fail("read")
    session = keeper.session(jar.header())
    assert (session.subject, session.withheld) == (None, "store-down")
    store.recover()
    assert keeper.session(jar.header()).subject == "alice"


def test_lost_store_brings_no_logged_out_session_back(site: Site) -> None:
    browser = site.sign_in("alice")
    jar = browser.jar.copy()
    browser.visit(lambda session: session.invalidate())
    for file in Path().glob("store.db*"):
        file.unlink()
    assert site.subject(jar) == "alice"  # what the runbook is for
    assert [each.code for each in follow("lost")] == [0, 0]
    assert site.subject(jar) is None
    assert site.subject(site.sign_in("bob").jar) == "bob"


def test_clocks_and_keys_are_listed(site: Site) -> None:
    assert [each.code for each in follow("clock")] == [0, 0]


def test_sizes_name_the_part_that_takes_the_room(site: Site) -> None:
    Path("session.json").write_text(json.dumps({"cart": ["tea"] * 2000, "theme": "dark"}))
    (printed,) = follow("sizes")
    assert printed.code == 0
    assert printed.out.splitlines()[1].split()[0] == "cart"


def test_every_runbook_names_tests_that_exist() -> None:
    sections = re.split(r"^## ", RUNBOOKS.text, flags=re.MULTILINE)[1:]
    for section in sections:
        found = re.findall(r"<!-- test: (.*?) -->", section)
        assert found, section.splitlines()[0]
        for name in " ".join(found).split():
            path, _, function = name.partition("::")
            source = (ROOT / path).read_text("utf-8")
            assert re.search(rf"^def {function}\(", source, re.MULTILINE), name

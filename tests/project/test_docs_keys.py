"""docs/keys.md shows what commands really print, and explains every state, field and finding.

Knows how the document marks what is run. Kids, times and places differ from run to run, and are
compared by their shape.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sealedstate import Keeper, Key, Settings
from sealedstate._stored.table import Rows
from sealedstate.cli import main
from sealedstate.keyring import KeyState
from sealedstate.rotation import (
    Ring,
    Schedule,
    dump_ring,
    founded,
    lasting_replaced,
    lasting_rotated,
    revoked,
    rotated,
)
from sealedstate.sso import ConsentStore
from sealedstate.sso.deployment import SsoDeployment
from sealedstate.storage import open_storage
from tests.support.jar import Browser
from tests.support.ring_cli import DAY, DEFAULT, HOUR, Desk, desk

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = (ROOT / "docs" / "keys.md").read_text("utf-8")
KID = re.compile(r"\b[0-9a-f]{8}\b")
SHAPES = (
    (r"/\S*/keys\.json", "/srv/app/keys.json"),
    (r"\b[0-9a-f]{16}\b", "RING"),
    (r"\b[0-9a-f]{8}\b", "KID"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\dZ)?", "TIME"),
    (r"(in )?\b\d+ (d|h|min|s)( \d+ (h|min|s))?( ago)?\b|\bnow$", "AWAY"),
    (r"KID +[-.#x| ]+$", "KID BAR"),
    (r" +", " "),
)

Told = pytest.CaptureFixture[str]


def blocks(mark: str) -> list[str]:
    """What stands between the marks, without the fences."""
    found = re.findall(rf"<!-- {mark} -->\n(.*?)\n?<!-- /{mark} -->", DOCUMENT, re.DOTALL)
    assert found
    return [re.sub(r"^```\w*$\n?", "", block, flags=re.MULTILINE) for block in found]


def table(mark: str) -> dict[str, list[str]]:
    """The rows between the marks, without the head: first cell -> the others."""
    (block,) = blocks(mark)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()[2:]]
    return {row[0].strip("`"): row[1:] for row in rows}


def shape(text: str) -> str:
    """A text without what differs from run to run."""
    lines = [line.strip() for line in text.splitlines()]
    for pattern, name in SHAPES:
        lines = [re.sub(pattern, name, line) for line in lines]
    return "\n".join(line for line in lines if line not in ("", "| AWAY", "AWAY |"))


# --- what is run --------------------------------------------------------------------------------


class Shell:
    """Runs the commands of the document, one after the other, in a directory with its app.toml."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = 0
        (config,) = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
        (folder / "app.toml").write_text(config)
        self.environ = {
            name: text for name, text in os.environ.items() if not name.startswith("SEALEDSTATE_")
        }

    def run(self, command: str) -> str:
        """What a command prints."""
        if command == "echo $?":
            return f"{self.code}\n"
        if command.startswith("export "):
            name, value = command.removeprefix("export ").split("=", 1)
            self.environ[name] = self.run(f"echo {value}").strip()
            return ""
        ours = f'sealedstate() {{ "{sys.executable}" -m sealedstate "$@"; }}'
        done = subprocess.run(
            ["sh", "-c", f"{ours}\n{command} 2>&1"],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            check=False,
        )
        self.code = done.returncode
        return done.stdout.decode()


def test_every_command_prints_what_is_shown(tmp_path: Path) -> None:
    shell, kids = Shell(tmp_path), dict[str, str]()
    for part in re.split(r"^\$ ", "\n".join(blocks("run")), flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        # A key of the document is the one that was printed in its place.
        printed = shell.run(KID.sub(lambda kid: kids[kid[0]], command))
        assert shape(printed) == shape(shown), f"$ {command}\n{printed}"
        kids.update(zip(KID.findall(shown), KID.findall(printed), strict=True))


def test_wrapping_looks_as_it_is_shown(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.run("sealedstate keys init keys.json")
    (shown,) = blocks("wrap")
    for part in re.split(r"^\$ ", shown, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        assert shape(shell.run(command)) == shape(printed)
    assert shell.code == 0


def three_days(place: Desk) -> Ring:
    """A ring that rotated every day, was rotated in time, and lost a key."""
    now = int(time.time())
    since = now - 2 * DAY - 9 * HOUR
    ring = place.found(2 * DAY + 9 * HOUR, replace(DEFAULT, keep=40 * HOUR))
    for day in (1, 2):
        ring = rotated(ring, ring.schedule, since + day * DAY - 900, os.urandom)
    ring = revoked(ring, ring.keys[1].kid, now - 5 * HOUR, os.urandom, "laptop stolen")
    ring = rotated(ring, ring.schedule, now - 300, os.urandom, force=True)
    return place.put(replace(ring, sequence=5))


def test_the_list_looks_as_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    with desk("wrapped file", tmp_path, monkeypatch) as place:
        ring = three_days(place)
        newest, primary, oldest = (key.kid.hex() for key in ring.keys)
        dead = ring.tombstones[0].kid.hex()
        place.report(ring, opened={primary: 8120, oldest: 214}, refused={dead: 31})
        place.report(ring, pid=72, opened={primary: 7904, oldest: 198}, refused={dead: 29})
        place.report(ring, node="web2", opened={primary: 8033, newest: 0, oldest: 205})
        assert main(["keys", "list"]) == 0
        printed = capsys.readouterr().out
    (shown,) = blocks("list")
    assert shape(printed) == shape(shown), printed


def test_the_sweep_tells_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    with desk("store", tmp_path, monkeypatch) as place:
        now, ring = int(time.time()), place.found(3 * DAY)
        with closing(open_storage(place.environ["SEALEDSTATE_STORAGE"], time.time)) as store:
            deployment = SsoDeployment(store, Rows("default", os.urandom), ring.keyring, 60)
            for number in range(3):
                ConsentStore(deployment).record(f"user {number}", "terms", 1, now - DAY)
        ring = lasting_rotated(ring, now - DAY - 3600, os.urandom)
        ring = place.put(replace(rotated(ring, DEFAULT, now, os.urandom), sequence=7))
        assert lasting_replaced(ring, now)
        capsys.readouterr()
        assert main(["keys", "reseal"]) == 0
        printed = capsys.readouterr().out
    (shown,) = blocks("lasting")
    numbers = re.compile(r"\b\d+\b")
    shown = shape(shown.partition("\n")[2])
    assert numbers.sub("N", shape(printed)) == numbers.sub("N", shown), printed


# --- what is explained --------------------------------------------------------------------------


def test_every_state_is_explained() -> None:
    assert set(table("states")) == {state.value for state in KeyState}


def test_every_field_is_explained() -> None:
    schedule = Schedule(1, 1, 1, 1)
    fields = set(json.loads(dump_ring(founded(schedule, 1, os.urandom), None, os.urandom)))
    assert set(table("fields")) == fields


def test_every_finding_is_explained() -> None:
    assert set(table("findings")) == set(words_of_findings())


def words_of_findings() -> Iterator[str]:
    """What a finding may be about, by the source."""
    for path in (ROOT / "sealedstate" / "cli" / "keys").glob("*_checks.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                assert isinstance(node.args[0], ast.Constant)
                yield str(node.args[0].value)


def test_the_numbers_that_are_named_are_the_defaults() -> None:
    settings = Settings(keys=Key.generate(os.urandom).export())
    tending = settings.rotation()
    schedule = tending.schedule
    assert f"| `rotate_every` | {schedule.rotate_every} s |" in DOCUMENT
    assert f"| `announce` | {schedule.announce} s, or 2 × `reload_every` + `skew`" in DOCUMENT
    assert f"| `reload_every` | {tending.reload_every} s |" in DOCUMENT
    assert f"| `skew` | {schedule.skew} s |" in DOCUMENT
    assert schedule.keep == settings.absolute_lifetime + settings.skew
    held = schedule.announce + schedule.keep + 2 * schedule.skew
    assert held == schedule.held_after_retirement == 12 * HOUR + 18 * 60
    assert "with the defaults 12 hours and 18 minutes" in DOCUMENT


def test_a_ring_holds_as_many_keys_as_is_said() -> None:
    (days,) = re.findall(r"holds (\d+) keys with the defaults, and (\d+)\s+with", DOCUMENT)
    for schedule, held in zip((DEFAULT, replace(DEFAULT, keep=30 * DAY + 60)), days, strict=True):
        now = 1_800_000_000
        ring = founded(schedule, now, os.urandom)
        for hour in range(60 * 24):
            ring = rotated(ring, schedule, now + hour * HOUR, os.urandom)
        assert len(ring.keys) == int(held)


# --- a source of one's own ----------------------------------------------------------------------


class Vault(BaseHTTPRequestHandler):
    """Answers as the key-value engine of Vault does (version 2)."""

    lines: list[str] | None = None

    def do_GET(self) -> None:
        is_right = self.headers["X-Vault-Token"] == "token" and self.lines is not None
        self.send_response(200 if is_right else 503)
        self.end_headers()
        self.wfile.write(json.dumps({"data": {"data": {"keys": self.lines}}}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody wants to know."""


@pytest.fixture
def vault() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Vault) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/secret/data/app"
        server.shutdown()
        thread.join()


def until(met: Any) -> None:
    give_up_at = time.monotonic() + 60
    while not met():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_the_source_that_is_shown_rotates_and_survives_its_service(vault: str) -> None:
    (code,) = blocks("vault")
    names: dict[str, Any] = {}
    exec(compile(code, "vault_keys.py", "exec"), names)
    old, new = (Key.generate(os.urandom) for _ in range(2))
    Vault.lines = [old.export()]
    source = names["VaultKeys"](vault, "token", every=0.02)
    browser = Browser(Keeper(Settings(keys=source)))
    browser.visit(lambda session: session.__setitem__("cart", ["tea"]))
    Vault.lines = [new.export(), old.export()]
    until(lambda: source.keyring().primary(0).kid == new.kid)
    assert browser.session()["cart"] == ["tea"]
    Vault.lines = None
    with pytest.raises(OSError, match="503"):
        source._asked()
    assert browser.session()["cart"] == ["tea"]
    Vault.lines = [new.export()]
    until(lambda: source.keyring().find(old.kid) is None)
    with pytest.raises(OSError, match="503"):
        names["VaultKeys"](vault, "wrong")
    source._every = 1e6  # its thread is not to go on

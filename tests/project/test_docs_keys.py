"""The commands of docs/keys.md run; its tables have every state, field, finding and default."""

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
from sealedstate.cli import main
from sealedstate.key_sources import DatedKeySource
from sealedstate.keyring import KeyState
from sealedstate.rotation.document import dump_ring
from sealedstate.rotation.ring import Ring, Schedule
from sealedstate.rotation.transitions import (
    create_ring,
    obsolete_long_term,
    revoke,
    rotate,
    rotate_long_term,
)
from sealedstate.sso import ConsentStore
from sealedstate.storage import open_storage
from tests.support.documents import ROOT, Document
from tests.support.identity_providers import deployment
from tests.support.jar import Browser
from tests.support.ring_cli import DAY, DEFAULT, HOUR, Desk, desk
from tests.support.server_process import until

DOCUMENT = Document("keys.md")
KID = re.compile(r"\b[0-9a-f]{8}\b")
STATES = "|".join(state.value for state in KeyState)

Told = pytest.CaptureFixture[str]


def commands(mark: str) -> Iterator[tuple[str, str]]:
    """Each command of the marked blocks, with the output that follows it."""
    for part in re.split(r"^\$ ", "\n".join(DOCUMENT.blocks(mark)), flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


# --- commands -------------------------------------------------------------------------------------


class Shell:
    """Runs commands of the document in a directory with its app.toml."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = 0
        (config,) = DOCUMENT.code("toml")
        (folder / "app.toml").write_text(config)
        self.environ = {
            name: text for name, text in os.environ.items() if not name.startswith("SEALEDSTATE_")
        }

    def run(self, command: str) -> str:
        """The output of a command; `code` is its exit code."""
        if command.startswith("export "):
            name, value = command.removeprefix("export ").split("=", 1)
            self.environ[name] = self.run(f"echo {value}").strip()
            return ""
        function = f'sealedstate() {{ "{sys.executable}" -m sealedstate "$@"; }}'
        done = subprocess.run(
            ["sh", "-c", f"{function}\n{command} 2>&1"],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            check=False,
        )
        self.code = done.returncode
        return done.stdout.decode()


@pytest.mark.slow
def test_documented_commands_succeed_and_print_as_many_keys(tmp_path: Path) -> None:
    shell, kids = Shell(tmp_path), dict[str, str]()
    for command, shown in commands("run"):
        if command == "echo $?":
            assert shell.code == int(shown)
            continue
        # A key of the document is replaced by the one that was printed in its place.
        printed = shell.run(KID.sub(lambda kid: kids[kid[0]], command))
        assert shell.code == 0, f"$ {command}\n{printed}"
        kids.update(zip(KID.findall(shown), KID.findall(printed), strict=True))
    assert len(set(kids.values())) == len(kids) > 3


@pytest.mark.slow
def test_documented_wrapping_encrypts_the_ring(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.run("sealedstate keys init keys.json")
    before = (tmp_path / "keys.json").read_bytes()
    for command, _ in commands("wrap"):
        shell.run(command)
        assert shell.code == 0, command
    assert (tmp_path / "keys.json").read_bytes() != before


def three_days(place: Desk) -> Ring:
    """A ring that rotated each day, was then rotated by hand, and had a key revoked."""
    now = int(time.time())
    since = now - 2 * DAY - 9 * HOUR
    ring = place.create(2 * DAY + 9 * HOUR, replace(DEFAULT, keep=40 * HOUR))
    for day in (1, 2):
        ring = rotate(ring, ring.schedule, since + day * DAY - 900, os.urandom)
    ring = revoke(ring, ring.keys[1].kid, now - 5 * HOUR, os.urandom, "laptop stolen")
    ring = rotate(ring, ring.schedule, now - 300, os.urandom, force=True)
    return place.put(replace(ring, sequence=5))


def test_documented_list_has_the_states_and_nodes_of_a_real_one(
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
    shown = DOCUMENT.block("list")
    for pattern in (rf"^[0-9a-f]{{8}} +({STATES})\b", r"^(web\d): (\d)", r"\b(24057|617|60)\b"):
        found = re.findall(pattern, printed, re.MULTILINE)
        assert found == re.findall(pattern, shown, re.MULTILINE) != [], printed


def test_documented_sweep_reseals_and_names_the_key_that_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    with desk("store", tmp_path, monkeypatch) as place:
        now, ring = int(time.time()), place.create(3 * DAY)
        with closing(open_storage(place.environ["SEALEDSTATE_STORAGE"], time.time)) as store:
            then = deployment(store, ring.keyring(), lambda: now - DAY)
            for number in range(3):
                ConsentStore(then).record(f"user {number}", "terms", 1)
        before = ring.long_term[0].kid.hex()
        ring = rotate_long_term(ring, now - DAY - 3600, os.urandom)
        ring = place.put(replace(rotate(ring, DEFAULT, now, os.urandom), sequence=7))
        assert obsolete_long_term(ring, now)
        capsys.readouterr()
        ((command, shown),) = commands("lasting")
        assert main(command.split()[1:3]) == 0
        printed = capsys.readouterr().out
    assert KID.findall(printed) == [ring.long_term[0].kid.hex(), before]
    assert len(KID.findall(shown)) == 2


# --- tables -------------------------------------------------------------------------------------


def test_every_state_field_and_finding_is_explained() -> None:
    fields = json.loads(
        dump_ring(create_ring(Schedule(1, 1, 1, 1), 1, os.urandom), None, os.urandom)
    )
    assert set(DOCUMENT.table("states")) == {state.value for state in KeyState}
    assert set(DOCUMENT.table("fields")) == set(fields)
    assert set(DOCUMENT.table("findings")) == set(words_of_findings())


def words_of_findings() -> Iterator[str]:
    """The subjects of findings in the source."""
    for path in (ROOT / "sealedstate" / "cli").glob("*_checks.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                assert isinstance(node.args[0], ast.Constant)
                yield str(node.args[0].value)


def test_documented_numbers_are_the_defaults() -> None:
    settings = Settings(keys=Key.generate(os.urandom).export())
    rotation = settings.rotation()
    schedule = rotation.schedule
    assert f"| `rotate_every` | {schedule.rotate_every} s |" in DOCUMENT.text
    assert f"| `announce` | {schedule.announce} s, or 2 × `reload_every` + `skew`" in DOCUMENT.text
    assert f"| `reload_every` | {rotation.reload_every} s |" in DOCUMENT.text
    assert f"| `skew` | {schedule.skew} s |" in DOCUMENT.text
    assert schedule.keep == settings.absolute_lifetime + settings.skew
    held = schedule.announce + schedule.keep + 2 * schedule.skew
    assert held == schedule.opens_after_retirement == 12 * HOUR + 18 * 60
    assert "with the defaults 12 hours and 18 minutes" in DOCUMENT.text


def test_ring_holds_as_many_keys_as_documented() -> None:
    (days,) = re.findall(r"holds (\d+) keys with the defaults, and (\d+)\s+with", DOCUMENT.text)
    for schedule, held in zip((DEFAULT, replace(DEFAULT, keep=30 * DAY + 60)), days, strict=True):
        now = 1_800_000_000
        ring = create_ring(schedule, now, os.urandom)
        for hour in range(60 * 24):
            ring = rotate(ring, schedule, now + hour * HOUR, os.urandom)
        assert len(ring.keys) == int(held)


class Vault(BaseHTTPRequestHandler):
    """Answers as the key-value engine of Vault does (version 2)."""

    lines: list[str] | None = None

    def do_GET(self) -> None:
        is_right = self.headers["X-Vault-Token"] == "token" and self.lines is not None
        self.send_response(200 if is_right else 503)
        self.end_headers()
        self.wfile.write(json.dumps({"data": {"data": {"keys": self.lines}}}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""


@pytest.fixture
def vault() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Vault) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/secret/data/app"
        server.shutdown()
        thread.join()


def test_documented_key_source_rotates_and_survives_its_service(vault: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(DOCUMENT.block("vault"), "vault_keys.py", "exec"), names)
    old, new = (Key.generate(os.urandom) for _ in range(2))
    Vault.lines = [old.export()]
    source = names["VaultKeys"](vault, "token", every=0.02)
    browser = Browser(Keeper(Settings(keys=source)))
    browser.visit(lambda session: session.__setitem__("cart", ["tea"]))
    Vault.lines = [new.export(), old.export()]
    until(lambda: source.keyring().primary(0).kid == new.kid, "the new key seals")
    assert browser.session()["cart"] == ["tea"]
    Vault.lines = None
    with pytest.raises(OSError, match="503"):
        source._ask()
    dated: object = source
    assert isinstance(dated, DatedKeySource)
    read_at = source.read_at()
    assert browser.session()["cart"] == ["tea"]
    Vault.lines = [new.export()]
    until(lambda: source.keyring().find(old.kid) is None, "the old key is gone")
    until(lambda: source.read_at() > read_at, "the answer is newer")
    with pytest.raises(OSError, match="503"):
        names["VaultKeys"](vault, "wrong")
    source._every = 1e6  # its thread ends with this process

"""``sealedstate keys``: which ring is meant, and what a missing or damaged ring looks like.

No command shows a traceback or a secret.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sealedstate.cli._source import open_deployment, source_of
from sealedstate.keyring import Key
from tests.support.ring_cli import DAY, KEK, Desk, finding, keys_json, output, run, usage_error

# --- which ring ---------------------------------------------------------------------------------


@pytest.fixture
def bare(file: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A ring in a file that no environment names."""
    file.create()
    monkeypatch.delenv("SEALEDSTATE_KEYS")
    return file


def test_ring_is_named_by_path_source_or_configuration(bare: Desk, tmp_path: Path) -> None:
    config = tmp_path / "app.toml"
    config.write_text(f'[sealedstate]\nkeys = "{bare.keys}"\nreload_every = 9\n')
    for arguments in ([str(bare.path)], [bare.keys], ["--keys", bare.keys], ["--config", config]):
        found = keys_json("list", *map(str, arguments))
        assert found["ring"] == bare.ring().ring_id
    assert "(reload_every 9 s + 1 s)" in output(
        "keys", "revoke", bare.kids()[0], "--config", str(config)
    )
    config.write_text("[sealedstate]\nreload_every = 9\n")
    assert run("keys", "list", str(bare.path), "--config", str(config)).code == 0


def test_no_ring_or_two_rings_named_is_wrong_usage(bare: Desk) -> None:
    assert "no ring is named" in usage_error("keys", "list")
    message = usage_error("keys", "list", str(bare.path), "--keys", bare.keys)
    assert "either PATH or --keys" in message


@pytest.mark.parametrize(
    "text",
    ["env:", "file:", "store:x", "keys.json", "", KEK, "store:", "file:a\0b"],
    ids=["env", "file", "storex", "bare", "empty", "key", "no storage", "NUL"],
)
def test_source_that_is_no_ring_is_wrong_usage(bare: Desk, text: str) -> None:
    message = usage_error("keys", "list", f"--keys={text}")
    assert message.startswith("sealedstate: keys: ")
    assert KEK not in message


def test_file_with_one_key_per_line_is_not_taken_for_a_damaged_ring(
    file: Desk, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{Key.generate(os.urandom).export()}\n")
    for action in ("init", "list", "rotate", "check"):
        assert "such keys do not rotate" in usage_error("keys", action, str(path))


@pytest.mark.parametrize(
    "text",
    [
        "keys = [\n",
        'keys = ["a", "b"]\n',
        "keys = 5\n",
        'keys = "file:a\\u0000b"\n',
        'keyz = "file:keys.json"\n',
        'keys = "file:keys.json"\nreload_every = "60"\n',
        'keys = "file:keys.json"\nrotate_every = 0\n',
        'keys = "file:keys.json"\nstorage = "nonsense"\n',
        "",
    ],
)
def test_wrong_or_missing_configuration_is_wrong_usage(
    bare: Desk, tmp_path: Path, text: str
) -> None:
    config = tmp_path / "app.toml"
    config.write_text(text)
    usage_error("keys", "list", "--config", str(config))
    usage_error("keys", "list", "--config", str(tmp_path / "missing.toml"))


def test_invalid_kek_is_wrong_usage_and_not_repeated(
    file: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.create()
    monkeypatch.setenv("SEALEDSTATE_KEK", "canary")
    assert "canary" not in usage_error("keys", "list")


# --- rings that cannot be used ------------------------------------------------------------------

ACTIONS = [["list"], ["rotate"], ["rotate", "--now"], ["revoke", "abcd"], ["disable", "abcd"]]
ACTIONS += [["enable", "abcd"], ["revoke", "--before", "2h"]]


def test_missing_ring_names_the_command_that_creates_it(place: Desk) -> None:
    for arguments in ACTIONS:
        assert "`sealedstate keys init` creates it" in finding("keys", *arguments)


def test_damaged_ring_is_a_finding_of_every_command(file: Desk) -> None:
    file.create()
    whole = file.path.read_bytes()
    document = json.loads(whole)
    damaged = [whole[: len(whole) * part // 10] for part in range(10)]
    damaged += [b"\xff" * 10, b"[" * 100_000, b"null", b"{}", whole.replace(b"2026", b"2027")]
    damaged += [json.dumps(document | {name: None}).encode() for name in document]
    for content in damaged:
        file.path.write_bytes(content)
        for arguments in [*ACTIONS, ["init"]]:
            finding("keys", *arguments)
        assert file.path.read_bytes() == content


def test_ring_of_another_kek_or_a_store_that_is_down_is_a_finding_of_every_command(
    wrapped: Desk, stored: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped.create()
    nowhere = f"sqlite:{stored.path.parent / 'no' / 'store.db'}"
    monkeypatch.setenv("SEALEDSTATE_STORAGE", nowhere)
    monkeypatch.setenv("SEALEDSTATE_KEK", Key.generate(os.urandom).export())
    for arguments in ACTIONS:
        assert "does not exist; create it" in finding("keys", *arguments)
        assert "not set here" in finding("keys", *arguments, "--keys", wrapped.keys)
    code, out, err = run("keys", "list", "--json")
    assert code == 1
    assert list(json.loads(out)) == ["unusable"]
    assert json.loads(out)["unusable"] in err


def test_no_command_prints_a_secret(place: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    place.create(DAY)
    url = place.environ.get("SEALEDSTATE_STORAGE", f"sqlite:{place.path}.db")
    monkeypatch.setenv("SEALEDSTATE_STORAGE", url)
    secrets, printed = place.secrets(), ""
    for arguments in (
        ["rotate"],
        ["revoke", place.kids()[0]],
        ["rotate", "--now"],
        ["rotate", "--lasting"],
        ["reseal"],
        ["list"],
        ["check"],
    ):
        for form in ([], ["--json"]):
            result = run("keys", *arguments, *form)
            printed += result.out + result.err
            secrets |= place.secrets()
    assert len(secrets) > 8
    assert not [secret for secret in secrets if secret in printed]


def test_command_opens_no_key_source(place: Desk) -> None:
    ring, before = place.create(DAY), set(threading.enumerate())
    with open_deployment() as deployment:
        assert source_of(deployment, False).ring() == ring
    assert place.ring() == ring
    started = set(threading.enumerate()) - before
    assert not [thread for thread in started if thread.name == "sealedstate-keys"]


@pytest.mark.slow
def test_processes_manage_a_ring(place: Desk) -> None:
    def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sealedstate", "keys", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run_process("list").returncode == 1
    assert run_process("init").returncode == 0
    (kid,) = place.kids()
    assert run_process("rotate", "--now").returncode == 0
    assert run_process("revoke", kid, "--reason", "drill").returncode == 0
    listed = json.loads(run_process("list", "--json").stdout)
    assert [key["kid"] for key in listed["keys"]] == place.kids()
    assert listed["tombstones"][0]["reason"] == "drill"
    wrong = run_process("revoke", "0000")
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)

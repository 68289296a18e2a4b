"""``sealedstate keys``: which ring is meant, and what is said where that is wrong, broken or down.

No command shows a traceback or a secret.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from argparse import Namespace
from pathlib import Path

import pytest

from sealedstate.cli.keys.source import opened
from sealedstate.keyring import Key
from tests.support.ring_cli import (
    DAY,
    KEK,
    Desk,
    Told,
    as_json,
    desk,
    finding,
    keys,
    kids,
    wrong_usage,
)

# --- which ring ---------------------------------------------------------------------------------


@pytest.fixture
def bare(file: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A ring in a file that no environment names."""
    file.found()
    monkeypatch.delenv("SEALEDSTATE_KEYS")
    return file


def test_a_ring_is_named_by_a_path_or_a_source(bare: Desk, capsys: Told) -> None:
    for arguments in ([str(bare.path)], [bare.keys], ["--keys", bare.keys]):
        assert keys("list", "--json", *arguments) == 0
        assert as_json(capsys)["ring"] == bare.ring().ring_id


def test_a_ring_is_named_by_a_configuration_file(bare: Desk, tmp_path: Path, capsys: Told) -> None:
    config = tmp_path / "app.toml"
    config.write_text(f'[sealedstate]\nkeys = "{bare.keys}"\nreload_every = 9\n')
    assert keys("revoke", kids(bare.ring())[0], "--config", str(config)) == 0
    assert "(reload_every 9 s + 1 s)" in capsys.readouterr().out
    config.write_text("[sealedstate]\nreload_every = 9\n")
    assert keys("list", str(bare.path), "--config", str(config)) == 0


def test_no_ring_or_two_named_is_wrong_usage(bare: Desk, capsys: Told) -> None:
    assert "no ring is named" in wrong_usage(capsys, "list")
    both = wrong_usage(capsys, "list", str(bare.path), "--keys", bare.keys)
    assert "a PATH or --keys, not both" in both


@pytest.mark.parametrize(
    "text",
    ["env:", "file:", "store:x", "keys.json", "", KEK, "store:"],
    ids=["env", "file", "storex", "bare", "empty", "key", "no storage"],
)
def test_a_source_that_is_no_ring_is_wrong_usage(bare: Desk, text: str, capsys: Told) -> None:
    told = wrong_usage(capsys, "list", f"--keys={text}")
    assert told.startswith("sealedstate: keys: ")
    assert KEK not in told


def test_a_file_of_keys_that_do_not_rotate_is_told_from_a_broken_ring(
    file: Desk, tmp_path: Path, capsys: Told
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{Key.generate(os.urandom).export()}\n")
    for action in ("init", "list", "rotate", "check"):
        assert "one a line: these don't rotate" in wrong_usage(capsys, action, str(path))


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
def test_a_configuration_that_is_wrong_is_told(
    bare: Desk, tmp_path: Path, text: str, capsys: Told
) -> None:
    config = tmp_path / "app.toml"
    config.write_text(text)
    wrong_usage(capsys, "list", "--config", str(config))
    wrong_usage(capsys, "list", "--config", str(tmp_path / "missing.toml"))


def test_a_key_that_wraps_and_is_none_is_wrong_usage_and_not_repeated(
    file: Desk, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    file.found()
    monkeypatch.setenv("SEALEDSTATE_KEK", "canary")
    assert "canary" not in wrong_usage(capsys, "list")


@pytest.mark.parametrize(
    "arguments", [[], ["revok"], ["disable"], ["watch", "--every", "0"], ["check", "--over", "x"]]
)
def test_arguments_that_are_none_are_wrong_usage(arguments: list[str], capsys: Told) -> None:
    with pytest.raises(SystemExit) as caught:
        keys(*arguments)
    assert caught.value.code == 2


# --- rings that are none ------------------------------------------------------------------------

ACTIONS = [["list"], ["rotate"], ["rotate", "--now"], ["revoke", "abcd"], ["disable", "abcd"]]
ACTIONS += [["enable", "abcd"], ["revoke", "--before", "2h"]]


@pytest.mark.parametrize("arguments", ACTIONS, ids=" ".join)
def test_where_there_is_no_ring_the_command_that_makes_one_is_named(
    place: Desk, arguments: list[str], capsys: Told
) -> None:
    assert "`sealedstate keys init` makes one" in finding(capsys, *arguments)


def test_every_way_a_ring_may_be_broken_is_told_by_every_action(file: Desk, capsys: Told) -> None:
    file.found()
    whole = file.path.read_bytes()
    document = json.loads(whole)
    broken = [whole[: len(whole) * part // 10] for part in range(10)]
    broken += [b"\xff" * 10, b"[" * 100_000, b"null", b"{}", whole.replace(b"2026", b"2027")]
    broken += [json.dumps(document | {name: None}).encode() for name in document]
    for content in broken:
        file.path.write_bytes(content)
        for arguments in ACTIONS:
            finding(capsys, *arguments)
        finding(capsys, "init")
        assert file.path.read_bytes() == content


def test_a_ring_of_another_wrapping_key_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    with desk("wrapped file", tmp_path, monkeypatch) as place:
        place.found()
        monkeypatch.setenv("SEALEDSTATE_KEK", Key.generate(os.urandom).export())
        for arguments in ACTIONS:
            assert "not set here" in finding(capsys, *arguments)


def test_a_store_that_is_down_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    with desk("store", tmp_path, monkeypatch) as place:
        place.found()
    monkeypatch.setenv("SEALEDSTATE_STORAGE", f"sqlite:{tmp_path / 'no' / 'store.db'}")
    for arguments in ACTIONS:
        assert "unable to open" in finding(capsys, *arguments)
    assert keys("list", "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["unusable"] in err


# --- secrets ------------------------------------------------------------------------------------


def test_no_command_prints_a_secret(place: Desk, capsys: Told) -> None:
    place.found(DAY)
    secrets = place.secrets()
    kid = kids(place.ring())[0]
    for arguments in (["rotate"], ["revoke", kid], ["rotate", "--now"], ["list"], ["check"]):
        for as_what in ([], ["--json"]):
            keys(*arguments, *as_what)
            secrets |= place.secrets()
    out, err = capsys.readouterr()
    assert out
    assert not [secret for secret in secrets if secret in out + err]


# --- as a process -------------------------------------------------------------------------------


def test_a_ring_is_led_by_processes(place: Desk) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sealedstate", "keys", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("list").returncode == 1
    assert run("init").returncode == 0
    (kid,) = kids(place.ring())
    assert run("rotate", "--now").returncode == 0
    assert run("revoke", kid, "--reason", "drill").returncode == 0
    listed = json.loads(run("list", "--json").stdout)
    assert [key["kid"] for key in listed["keys"]] == kids(place.ring())
    assert listed["tombstones"][0]["reason"] == "drill"
    wrong = run("revoke", "0000")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.count("\n") == 1


def test_the_command_line_opens_no_source_of_keys(place: Desk) -> None:
    ring, before = place.found(DAY), set(threading.enumerate())
    with opened(Namespace(config=None, keys=None)) as source:
        assert source.ring() == ring
    assert place.ring() == ring
    started = set(threading.enumerate()) - before
    assert not [thread for thread in started if thread.name == "sealedstate-keys"]

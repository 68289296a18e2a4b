"""Key sources: a mistake in any of them stops the start and names its remedy."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sealedstate import ConfigurationError, Key, Keyring, Settings
from sealedstate.deployment import Deployment, open_keys, open_ring_storage
from sealedstate.key_sources import KeySource, StaticKeys, parse_keyring
from sealedstate.keyring import export_lookup
from sealedstate.rotation.source import RotatingKeySource
from sealedstate.rotation.transitions import create_ring
from sealedstate.storage import MemoryStorage

FIRST, SECOND, THIRD = (Key.generate(os.urandom) for _ in range(3))
TEXTS = [FIRST.export(), SECOND.export(), THIRD.export()]
SECRET = TEXTS[0].rpartition(":")[2]
LOOKUP = os.urandom(32)
SKEW = 60


def keyring_of(keys: Any, environ: Mapping[str, str] | None = None) -> Keyring:
    return open_keys(Settings(keys=keys, environ=environ or {}, skew=SKEW)).keyring()


def refusal(keys: Any, environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        keyring_of(keys, environ)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def key_file(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "keys"
    path.write_text(text, "utf-8")
    path.chmod(mode)
    return f"file:{path}"


# --- a list ---------------------------------------------------------------------------------------


def test_first_key_of_a_list_seals_and_all_open() -> None:
    ring = keyring_of(TEXTS)
    assert ring.keys == (FIRST, SECOND, THIRD)
    assert ring.primary(0) == FIRST
    assert ring.skew == SKEW
    assert keyring_of(TEXTS[1]).keys == (SECOND,)


def test_lookup_key_may_be_anywhere_among_the_keys_and_only_once() -> None:
    for place in range(4):
        lines = [*TEXTS]
        lines.insert(place, export_lookup(LOOKUP))
        ring = keyring_of(lines)
        assert ring.keys == (FIRST, SECOND, THIRD)
        assert ring.lookup == LOOKUP
    assert "at most one lookup key" in refusal(
        [*TEXTS, export_lookup(LOOKUP), export_lookup(os.urandom(32))]
    )
    assert "no key is configured" in refusal([export_lookup(LOOKUP)])


@pytest.mark.parametrize("keys", [[], (), "", "  ", "env:", "env:OURS"], ids=repr)
def test_missing_key_is_refused_and_the_command_that_prints_one_is_named(keys: Any) -> None:
    assert "`sealedstate keys generate` prints" in refusal(keys)


def test_keys_of_another_type_or_twice_are_refused() -> None:
    for keys in (None, 5, [5], [None], [b"key"], b"key", {5: 5}):
        assert refusal(keys).startswith("keys: ")
    assert "same kid" in refusal([TEXTS[0], TEXTS[0]])


def test_key_source_of_an_application_is_used_as_it_is() -> None:
    class Managed:
        def keyring(self) -> Keyring:
            return Keyring((SECOND,))

    source = Managed()
    assert isinstance(source, KeySource)
    assert open_keys(Settings(keys=source)) is source
    static = StaticKeys(parse_keyring(TEXTS, SKEW))
    assert static.keyring() is static.keyring()


# --- dates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("date", "epoch"),
    [
        ("2026-12-01T00:00:00Z", 1_796_083_200),
        ("2026-12-01T00:00:00+00:00", 1_796_083_200),
        ("2026-12-01T01:30:00+01:30", 1_796_083_200),
        ("2026-11-30T19:00:00-05:00", 1_796_083_200),
        ("2026-12-01 00:00:00Z", 1_796_083_200),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_key_seals_from_the_date_after_it(date: str, epoch: int) -> None:
    ring = keyring_of([f"{TEXTS[1]}@{date}", TEXTS[0]])
    assert ring.keys[0].activates_at == epoch
    assert ring.keys[0].secret == SECOND.secret
    assert ring.primary(epoch) == ring.keys[0]
    if epoch:
        assert ring.primary(epoch - 1) == FIRST


def test_list_that_is_rolled_out_once_rotates_by_its_dates() -> None:
    ring = keyring_of(
        [f"{TEXTS[2]}@2027-12-01T00:00:00Z", f"{TEXTS[1]}@2026-12-01T00:00:00Z", TEXTS[0]]
    )
    turns = [
        ring.primary(now).kid
        for now in (0, 1_796_083_199, 1_796_083_200, 1_827_619_199, 1_827_619_200)
    ]
    assert turns == [FIRST.kid, FIRST.kid, SECOND.kid, SECOND.kid, THIRD.kid]


@pytest.mark.parametrize("date", ["", "@2026-01-01T00:00:00Z"])
def test_newest_key_must_be_first(date: str) -> None:
    message = refusal([f"{TEXTS[0]}{date}", f"{TEXTS[1]}@2026-12-01T00:00:00Z"])
    assert "the newest key must be first" in message


def test_bad_date_is_refused_with_its_remedy() -> None:
    for date in ("", "tomorrow", "1796083200", "2026-13-01T00:00:00Z", "2026-12-01T25:00:00Z"):
        assert "ISO 8601" in refusal([f"{TEXTS[0]}@{date}"])
    assert "ISO 8601" in refusal([f"{TEXTS[0]}@2026-12-01T00:00:00Z@2026-12-02T00:00:00Z"])
    for date in ("2026-12-01", "2026-12-01T00:00:00"):
        assert "time zone, such as Z" in refusal([f"{TEXTS[0]}@{date}"])


# --- the environment ------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [" ", "\n", ",", ", ", "\r\n", "\t", " ,\n"], ids=repr)
def test_keys_in_the_environment_are_separated_by_blanks_or_commas(separator: str) -> None:
    ring = keyring_of("env:", {"SEALEDSTATE_KEYS": separator.join(TEXTS)})
    assert ring.keys == (FIRST, SECOND, THIRD)


def test_another_variable_can_be_named() -> None:
    environ = {"SEALEDSTATE_KEYS": TEXTS[0], "OURS": f"{TEXTS[1]} {export_lookup(LOOKUP)}"}
    ring = keyring_of("env:OURS", environ)
    assert ring.keys == (SECOND,)
    assert ring.lookup == LOOKUP
    assert "variable OURS contains no key" in refusal("env:OURS", {"OURS": " \n"})
    assert "environment variable SEALEDSTATE_KEYS" in refusal("env:")


# --- a file ---------------------------------------------------------------------------------------


def test_file_has_a_key_a_line_with_comments_and_empty_lines(tmp_path: Path) -> None:
    text = f"# ours\n\n{TEXTS[0]}\n  {TEXTS[1]}  \r\n   # {TEXTS[2]}\n\t\n{export_lookup(LOOKUP)}\n"
    for mark in ("", "\ufeff"):
        ring = keyring_of(key_file(tmp_path, mark + text))
        assert ring.keys == (FIRST, SECOND)
        assert ring.lookup == LOOKUP


def test_file_is_read_once(tmp_path: Path) -> None:
    source = open_keys(Settings(keys=key_file(tmp_path, TEXTS[0])))
    (tmp_path / "keys").unlink()
    assert source.keyring().keys == (FIRST,)


def test_file_without_keys_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for text in ("", "\n\n", "# nothing\n", f"#{TEXTS[0]}\n"):
        message = refusal(key_file(tmp_path, text))
        assert "no key is configured; `sealedstate keys generate` prints one" in message


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    message = refusal(f"file:{tmp_path / 'nowhere'}")
    assert str(tmp_path / "nowhere") in message
    assert "No such file" in message
    (tmp_path / "binary").write_bytes(b"\xff\xfe" + FIRST.secret)
    for keys in (f"file:{tmp_path}", "file:", f"file:{tmp_path / 'binary'}"):
        message = refusal(keys)
        assert "cannot be read" in message
        assert FIRST.secret.hex()[:8] not in message


def test_bad_key_is_refused_and_not_repeated(tmp_path: Path) -> None:
    for keys, environ in (
        (key_file(tmp_path, f"{TEXTS[1]}\n{SECRET}\n"), {}),
        ("env:", {"SEALEDSTATE_KEYS": f"{TEXTS[1]},{SECRET}"}),
    ):
        assert "<8 hex digits>" in refusal(keys, environ)


@pytest.mark.parametrize(
    ("mode", "warnings"), [(0o644, 1), (0o600, 0), (0o400, 0), (0o640, 0)], ids=oct
)
def test_file_that_all_users_may_read_is_used_and_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warnings: int
) -> None:
    source = key_file(tmp_path, TEXTS[0], mode)
    with caplog.at_level(logging.DEBUG):
        assert keyring_of(source).keys == (FIRST,)
    assert len(caplog.records) == warnings
    for record in caplog.records:
        assert (record.name, record.levelno) == ("sealedstate.keys", logging.WARNING)
        assert str(tmp_path / "keys") in record.getMessage()
        assert "chmod o-r" in record.getMessage()
        assert SECRET not in caplog.text


# --- a ring that rotates --------------------------------------------------------------------------


def test_store_that_could_lose_the_ring_is_refused_before_one_is_created() -> None:
    environ = {"SEALEDSTATE_KEK": TEXTS[0]}
    store = MemoryStorage(time.time)
    with pytest.raises(
        ConfigurationError, match="ring needs a store that is seen by every process"
    ):
        Deployment.open(Settings(keys="store:", storage=store, environ=environ))
    assert list(store.keys("sealedstate.ring")) == []
    accepted = Settings(
        keys="store:",
        storage=store,
        environ=environ,
        accept_weak_store_for=["ring"],
        rotate_in_process=False,
    )
    assert len(open_keys(accepted, store).keyring().keys) == 1
    assert len(list(store.keys("sealedstate.ring"))) == 1


def test_ring_in_the_store_needs_a_store_and_a_key_that_wraps_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="set storage"):
        open_keys(Settings(keys="store:", environ={"SEALEDSTATE_KEK": TEXTS[0]}))
    with pytest.raises(ConfigurationError, match="SEALEDSTATE_KEK"):
        Deployment.open(
            Settings(keys="store:", storage=f"sqlite:{tmp_path / 'store.db'}", environ={})
        )


def test_file_is_a_ring_by_its_name_or_by_its_first_byte(tmp_path: Path) -> None:
    for name in ("ring.json", "ring"):
        settings = Settings(keys=f"file:{tmp_path / name}", environ={}, rotate_in_process=False)
        ring = create_ring(settings.rotation().schedule, int(time.time()), os.urandom)
        assert open_ring_storage(settings).write(ring, None)
        source = open_keys(settings)
        assert isinstance(source, RotatingKeySource)
        assert source.ring == ring


def test_missing_ring_names_the_command_that_creates_one(tmp_path: Path) -> None:
    assert "sealedstate keys init" in refusal(f"file:{tmp_path / 'ring.json'}")

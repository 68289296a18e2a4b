"""Key sources: from wherever a ring comes, a mistake stops the start and names its remedy."""

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
from sealedstate.rotation import founded
from sealedstate.rotation.source import RotatingKeySource
from sealedstate.storage import MemoryStorage

FIRST, SECOND, THIRD = (Key.generate(os.urandom) for _ in range(3))
TEXTS = [FIRST.export(), SECOND.export(), THIRD.export()]
LOOKUP = os.urandom(32)
SKEW = 60


def opened(keys: Any, environ: Mapping[str, str] | None = None) -> Keyring:
    return open_keys(Settings(keys=keys, environ=environ or {}, skew=SKEW)).keyring()


def refusal(keys: Any, environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        opened(keys, environ)
    return str(caught.value)


def key_file(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "keys"
    path.write_text(text, "utf-8")
    path.chmod(mode)
    return f"file:{path}"


# --- a list ---------------------------------------------------------------------------------------


def test_the_first_key_of_a_list_seals_and_all_of_them_open() -> None:
    ring = opened(TEXTS)
    assert ring.keys == (FIRST, SECOND, THIRD)
    assert ring.primary(0) == FIRST
    assert ring.skew == SKEW


def test_one_key_is_a_ring() -> None:
    assert opened(TEXTS[1]).keys == (SECOND,)


def test_a_lookup_key_stands_anywhere_among_the_keys() -> None:
    for place in range(4):
        lines = [*TEXTS]
        lines.insert(place, export_lookup(LOOKUP))
        ring = opened(lines)
        assert ring.keys == (FIRST, SECOND, THIRD)
        assert ring.lookup == LOOKUP


def test_two_lookup_keys_are_refused() -> None:
    message = refusal([*TEXTS, export_lookup(LOOKUP), export_lookup(os.urandom(32))])
    assert "more than one lookup key" in message


def test_a_lookup_key_alone_is_no_ring() -> None:
    assert "no key is configured" in refusal([export_lookup(LOOKUP)])


@pytest.mark.parametrize("keys", [[], (), "", "  ", "env:", "env:OURS"], ids=repr)
def test_a_missing_key_is_refused_and_the_command_that_prints_one_is_named(keys: Any) -> None:
    assert "`sealedstate keys generate` prints" in refusal(keys)


@pytest.mark.parametrize("keys", [None, 5, [5], [None], [b"key"], b"key", {5: 5}], ids=repr)
def test_keys_of_another_type_are_a_configuration_error(keys: Any) -> None:
    assert refusal(keys).startswith("keys: ")


def test_a_key_written_twice_is_refused() -> None:
    assert "same kid" in refusal([TEXTS[0], TEXTS[0]])


def test_a_source_of_ones_own_is_taken_as_it_is() -> None:
    class Managed:
        def keyring(self) -> Keyring:
            return Keyring((SECOND,))

    source = Managed()
    assert isinstance(source, KeySource)
    assert open_keys(Settings(keys=source)) is source


def test_a_static_source_always_gives_the_same_ring() -> None:
    source = StaticKeys(parse_keyring(TEXTS, SKEW))
    assert source.keyring() is source.keyring()


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
def test_a_key_seals_from_the_date_behind_it(date: str, epoch: int) -> None:
    ring = opened([f"{TEXTS[1]}@{date}", TEXTS[0]])
    assert ring.keys[0].activates_at == epoch
    assert ring.keys[0].secret == SECOND.secret
    assert ring.primary(epoch) == (ring.keys[0])
    if epoch:
        assert ring.primary(epoch - 1) == FIRST


def test_a_ring_rolled_out_once_rotates_by_its_dates() -> None:
    ring = opened(
        [
            f"{TEXTS[2]}@2027-12-01T00:00:00Z",
            f"{TEXTS[1]}@2026-12-01T00:00:00Z",
            TEXTS[0],
        ]
    )
    turns = [
        ring.primary(now).kid
        for now in (0, 1_796_083_199, 1_796_083_200, 1_827_619_199, 1_827_619_200)
    ]
    assert turns == [FIRST.kid, FIRST.kid, SECOND.kid, SECOND.kid, THIRD.kid]


@pytest.mark.parametrize("date", ["", "@2026-01-01T00:00:00Z"])
def test_the_first_of_a_list_can_only_be_the_newest(date: str) -> None:
    with pytest.raises(ConfigurationError, match="newest stands first"):
        opened([f"{TEXTS[0]}{date}", f"{TEXTS[1]}@2026-12-01T00:00:00Z"])


@pytest.mark.parametrize(
    ("date", "remedy"),
    [
        ("", "ISO 8601"),
        ("tomorrow", "ISO 8601"),
        ("1796083200", "ISO 8601"),
        ("2026-13-01T00:00:00Z", "ISO 8601"),
        ("2026-12-01T25:00:00Z", "ISO 8601"),
        ("2026-12-01T00:00:00Z@2026-12-02T00:00:00Z", "ISO 8601"),
        ("2026-12-01", "time zone, such as Z"),
        ("2026-12-01T00:00:00", "time zone, such as Z"),
    ],
)
def test_a_bad_date_is_refused_and_its_remedy_named(date: str, remedy: str) -> None:
    message = refusal([f"{TEXTS[0]}@{date}"])
    assert remedy in message
    assert TEXTS[0].rpartition(":")[2] not in message


# --- the environment ------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [" ", "\n", ",", ", ", "\r\n", "\t", " ,\n"], ids=repr)
def test_keys_in_the_environment_are_separated_by_blanks_or_commas(separator: str) -> None:
    ring = opened("env:", {"SEALEDSTATE_KEYS": separator.join(TEXTS)})
    assert ring.keys == (FIRST, SECOND, THIRD)


def test_another_variable_can_be_named() -> None:
    environ = {"SEALEDSTATE_KEYS": TEXTS[0], "OURS": f"{TEXTS[1]} {export_lookup(LOOKUP)}"}
    ring = opened("env:OURS", environ)
    assert ring.keys == (SECOND,)
    assert ring.lookup == LOOKUP


def test_a_missing_variable_is_named() -> None:
    assert "environment variable OURS holds no key" in refusal("env:OURS", {"OURS": " \n"})
    assert "environment variable SEALEDSTATE_KEYS" in refusal("env:")


def test_a_bad_key_in_the_environment_is_not_repeated() -> None:
    secret = TEXTS[0].rpartition(":")[2]
    message = refusal("env:", {"SEALEDSTATE_KEYS": f"{TEXTS[1]},{secret}"})
    assert "key: expected" in message
    assert secret not in message


# --- a file ---------------------------------------------------------------------------------------


def test_a_file_has_a_key_a_line_with_comments_and_empty_lines(tmp_path: Path) -> None:
    text = f"# ours\n\n{TEXTS[0]}\n  {TEXTS[1]}  \r\n   # retired\n\t\n{export_lookup(LOOKUP)}\n"
    ring = opened(key_file(tmp_path, text))
    assert ring.keys == (FIRST, SECOND)
    assert ring.lookup == LOOKUP


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert opened(key_file(tmp_path, f"\ufeff{TEXTS[0]}\n")).keys == (FIRST,)


def test_a_key_that_is_commented_out_is_no_key(tmp_path: Path) -> None:
    assert opened(key_file(tmp_path, f"#{TEXTS[0]}\n{TEXTS[1]}")).keys == (SECOND,)
    assert "no key is configured" in refusal(key_file(tmp_path, f"#{TEXTS[0]}\n"))


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"], ids=repr)
def test_a_file_without_keys_is_refused_and_the_remedy_named(tmp_path: Path, text: str) -> None:
    assert "`sealedstate keys generate` prints one" in refusal(key_file(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    message = refusal(f"file:{tmp_path / 'nowhere'}")
    assert str(tmp_path / "nowhere") in message
    assert "No such file" in message


def test_a_folder_or_no_path_at_all_is_no_key_file(tmp_path: Path) -> None:
    assert "can't be read" in refusal(f"file:{tmp_path}")
    assert "can't be read" in refusal("file:")


def test_a_binary_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"\xff\xfe" + FIRST.secret)
    message = refusal(f"file:{path}")
    assert "can't be read" in message
    assert FIRST.secret.hex()[:8] not in message


def test_a_bad_line_of_a_file_is_not_repeated(tmp_path: Path) -> None:
    secret = TEXTS[0].rpartition(":")[2]
    message = refusal(key_file(tmp_path, f"{TEXTS[1]}\n{secret}\n"))
    assert "key: expected" in message
    assert secret not in message


def test_a_file_that_everybody_may_read_is_used_and_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = key_file(tmp_path, TEXTS[0], 0o644)
    with caplog.at_level(logging.WARNING, "sealedstate.keys"):
        assert opened(source).keys == (FIRST,)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(tmp_path / "keys") in record.getMessage()
    assert "chmod o-r" in record.getMessage()
    assert TEXTS[0].rpartition(":")[2] not in caplog.text


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_a_file_that_not_everybody_may_read_is_used_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert opened(key_file(tmp_path, TEXTS[0], mode)).keys == (FIRST,)
    assert caplog.records == []


def test_a_file_is_read_once(tmp_path: Path) -> None:
    source = open_keys(Settings(keys=key_file(tmp_path, TEXTS[0])))
    (tmp_path / "keys").unlink()
    assert source.keyring().keys == (FIRST,)


# --- a ring that rotates --------------------------------------------------------------------------


def test_a_store_that_could_lose_the_ring_is_refused_before_one_is_made() -> None:
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


def test_a_ring_in_the_store_needs_a_store_and_a_key_that_wraps_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="set storage"):
        open_keys(Settings(keys="store:", environ={"SEALEDSTATE_KEK": TEXTS[0]}))
    with pytest.raises(ConfigurationError, match="SEALEDSTATE_KEK"):
        Deployment.open(
            Settings(keys="store:", storage=f"sqlite:{tmp_path / 'store.db'}", environ={})
        )


def test_a_file_is_a_ring_by_its_name_or_by_how_it_begins(tmp_path: Path) -> None:
    for name in ("ring.json", "ring"):
        given = Settings(keys=f"file:{tmp_path / name}", environ={}, rotate_in_process=False)
        ring = founded(given.rotation().schedule, int(time.time()), os.urandom)
        assert open_ring_storage(given).write(ring, None)
        source = open_keys(given)
        assert isinstance(source, RotatingKeySource)
        assert source.ring == ring


def test_a_missing_ring_names_the_command_that_makes_one(tmp_path: Path) -> None:
    assert "sealedstate keys init" in refusal(f"file:{tmp_path / 'ring.json'}")

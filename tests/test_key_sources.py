"""A key source gives a ring, or stops the start with a remedy and without a secret."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from sealedstate import ConfigurationError, Key, OperatorError, Settings
from sealedstate.deployment import Deployment, open_keys, open_ring_storage
from sealedstate.events import Event
from sealedstate.key_sources import KeySource, StaticKeys, parse_keyring
from sealedstate.keyring import Keyring, export_lookup
from sealedstate.rotation.source import RotatingKeySource
from sealedstate.rotation.transitions import create_ring
from sealedstate.storage import MemoryStorage, RoutedStorage
from sealedstate.storage.contract import is_managed

FIRST, SECOND, THIRD = KEYS = tuple(Key.generate(os.urandom) for _ in range(3))
TEXTS = [key.export() for key in KEYS]
SECRET = TEXTS[0].rpartition(":")[2]
LOOKUP = os.urandom(32)
LOOKUP_TEXT = export_lookup(LOOKUP)
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


# --- a list -------------------------------------------------------------------------------------


def test_first_key_of_a_list_seals_and_all_open() -> None:
    ring = opened(TEXTS)
    assert ring.keys == KEYS
    assert (ring.primary(0), ring.skew) == (FIRST, SKEW)
    assert opened(TEXTS[1]).keys == (SECOND,)


def test_lookup_key_may_be_anywhere_in_a_list() -> None:
    for place in range(4):
        ring = opened([*TEXTS[:place], LOOKUP_TEXT, *TEXTS[place:]])
        assert (ring.keys, ring.lookup) == (KEYS, LOOKUP)


def test_unusable_keys_are_refused_with_a_remedy() -> None:
    empty: list[Any] = [[], (), "", "  ", "env:"]
    refused: list[tuple[Any, str]] = [
        *((keys, "`sealedstate keys generate` prints") for keys in empty),
        ([LOOKUP_TEXT], "no key is configured"),
        ([*TEXTS, LOOKUP_TEXT, export_lookup(os.urandom(32))], "at most one lookup key"),
        ([TEXTS[0], TEXTS[0]], "same kid"),
        *((keys, "keys: ") for keys in (None, 5, [5], [None], [b"key"], b"key", {5: 5})),
    ]
    for keys, remedy in refused:
        assert remedy in refusal(keys), keys


def test_key_source_of_the_application_is_used_as_it_is() -> None:
    class Managed:
        def keyring(self) -> Keyring:
            return Keyring((SECOND,))

    source = Managed()
    assert isinstance(source, KeySource)
    assert open_keys(Settings(keys=source)) is source


def test_static_keys_always_give_the_same_ring() -> None:
    source = StaticKeys(parse_keyring(TEXTS, SKEW))
    assert source.keyring() is source.keyring()


# --- dates --------------------------------------------------------------------------------------


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
def test_key_seals_from_its_activation_date(date: str, epoch: int) -> None:
    ring = opened([f"{TEXTS[1]}@{date}", TEXTS[0]])
    assert (ring.keys[0].activates_at, ring.keys[0].secret) == (epoch, SECOND.secret)
    assert ring.primary(epoch) == ring.keys[0]
    if epoch:
        assert ring.primary(epoch - 1) == FIRST


def test_list_that_was_rolled_out_once_rotates_by_its_dates() -> None:
    second, third = 1_796_083_200, 1_827_619_200
    ring = opened(
        [f"{TEXTS[2]}@2027-12-01T00:00:00Z", f"{TEXTS[1]}@2026-12-01T00:00:00Z", TEXTS[0]]
    )
    found = [ring.primary(now).kid for now in (0, second - 1, second, third - 1, third)]
    assert found == [FIRST.kid, FIRST.kid, SECOND.kid, SECOND.kid, THIRD.kid]


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
def test_bad_date_is_refused_with_a_remedy(date: str, remedy: str) -> None:
    message = refusal([f"{TEXTS[0]}@{date}"])
    assert remedy in message
    assert SECRET not in message


def test_newest_key_must_be_the_first() -> None:
    for date in ("", "@2026-01-01T00:00:00Z"):
        assert "newest" in refusal([f"{TEXTS[0]}{date}", f"{TEXTS[1]}@2026-12-01T00:00:00Z"])


# --- the environment ----------------------------------------------------------------------------


def test_keys_in_the_environment_are_separated_by_blanks_or_commas() -> None:
    for separator in (" ", "\n", ",", ", ", "\r\n", "\t", " ,\n"):
        assert opened("env:", {"SEALEDSTATE_KEYS": separator.join(TEXTS)}).keys == KEYS


def test_another_variable_can_be_named() -> None:
    ring = opened("env:OURS", {"SEALEDSTATE_KEYS": TEXTS[0], "OURS": f"{TEXTS[1]} {LOOKUP_TEXT}"})
    assert (ring.keys, ring.lookup) == ((SECOND,), LOOKUP)


def test_variable_without_a_key_is_named() -> None:
    assert "OURS: is empty" in refusal("env:OURS", {"OURS": " \n"})
    assert "environment variable SEALEDSTATE_KEYS" in refusal("env:")


# --- a file -------------------------------------------------------------------------------------


def test_file_has_a_key_a_line_with_comments_and_empty_lines(tmp_path: Path) -> None:
    text = f"# ours\n\n{TEXTS[0]}\n  {TEXTS[1]}  \r\n   # retired\n#{TEXTS[2]}\n\t\n{LOOKUP_TEXT}\n"
    for mark in ("", "\ufeff"):
        ring = opened(key_file(tmp_path, mark + text))
        assert (ring.keys, ring.lookup) == ((FIRST, SECOND), LOOKUP)


def test_file_without_keys_is_refused_with_a_remedy(tmp_path: Path) -> None:
    for text in ("", "\n\n", "# nothing\n", f"#{TEXTS[0]}\n"):
        assert "`sealedstate keys generate` prints one" in refusal(key_file(tmp_path, text))


def test_unreadable_file_is_named_with_the_cause(tmp_path: Path) -> None:
    message = refusal(f"file:{tmp_path / 'nowhere'}")
    assert str(tmp_path / "nowhere") in message
    assert "No such file" in message
    for path in (tmp_path, ""):
        assert "is not a regular file" in refusal(f"file:{path}")


def test_bad_keys_are_not_repeated_in_messages(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe" + FIRST.secret)
    messages = [
        refusal("env:", {"SEALEDSTATE_KEYS": f"{TEXTS[1]},{SECRET}"}),
        refusal(key_file(tmp_path, f"{TEXTS[1]}\n{SECRET}\n")),
        refusal(f"file:{tmp_path / 'binary'}"),
    ]
    assert ["expected sealedstate-key-1:<" in message for message in messages] == [
        True,
        True,
        False,
    ]
    assert "is not UTF-8" in messages[2]
    for message in messages:
        assert SECRET not in message
        assert FIRST.secret.hex()[:8] not in message


def test_file_that_all_users_may_read_is_logged_with_a_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for mode in (0o600, 0o400, 0o640):
        assert opened(key_file(tmp_path, TEXTS[0], mode)).keys == (FIRST,)
        (tmp_path / "keys").unlink()
    assert caplog.records == []
    assert opened(key_file(tmp_path, TEXTS[0], 0o644)).keys == (FIRST,)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(tmp_path / "keys") in record.getMessage()
    assert "chmod o-r" in record.getMessage()
    assert SECRET not in caplog.text


def test_file_is_read_once(tmp_path: Path) -> None:
    source = open_keys(Settings(keys=key_file(tmp_path, TEXTS[0])))
    (tmp_path / "keys").unlink()
    assert source.keyring().keys == (FIRST,)


# --- a ring that rotates ------------------------------------------------------------------------

WITH_KEK = {"SEALEDSTATE_KEK": TEXTS[0]}


def test_store_that_could_lose_the_ring_is_refused_before_one_is_made() -> None:
    store = MemoryStorage(time.time)
    given: dict[str, Any] = {"keys": "store:", "storage": store, "environ": WITH_KEK}
    with pytest.raises(
        ConfigurationError, match="ring needs a store that is seen by every process"
    ):
        Deployment.open(Settings(**given))
    assert list(store.keys("sealedstate.ring")) == []
    accepted = Settings(**given, accept_weak_store_for=["ring"], rotate_in_process=False)
    assert len(open_keys(accepted, store).keyring().keys) == 1
    assert len(list(store.keys("sealedstate.ring"))) == 1


def test_ring_in_the_store_needs_a_store_and_a_key_that_wraps_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="set storage"):
        open_keys(Settings(keys="store:", environ=WITH_KEK))
    storage = f"sqlite:{tmp_path / 'store.db'}"
    with pytest.raises(ConfigurationError, match="SEALEDSTATE_KEK"):
        Deployment.open(Settings(keys="store:", storage=storage, environ={}))


def test_file_is_a_ring_by_its_name_or_its_first_bytes(tmp_path: Path) -> None:
    for name in ("ring.json", "ring"):
        given = Settings(keys=f"file:{tmp_path / name}", environ={}, rotate_in_process=False)
        ring = create_ring(given.rotation().schedule, int(time.time()), os.urandom)
        assert open_ring_storage(given).write(ring, None)
        source = open_keys(given)
        assert isinstance(source, RotatingKeySource)
        assert source.ring == ring


def test_missing_ring_names_the_command_that_creates_one(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="`sealedstate keys init` creates it"):
        opened(f"file:{tmp_path / 'ring.json'}")


# --- errors that name the variable, the file and the line -----------------------------------------

MISTAKES = {
    "quotes": (f'"{TEXTS[0]}"', "in quotes"),
    "one quote": (f"{TEXTS[0]}'", "in quotes"),
    "name": (f"SEALEDSTATE_KEYS={TEXTS[0]}", "only the key is expected"),
    "zero width space": (f"{TEXTS[0]}\u200b", "U+200B"),
    "byte order mark inside": (f"\ufeff{TEXTS[0]}", "U+FEFF"),
    "comment": (f"{TEXTS[0]}#old", "a comment is only possible in a file"),
    "cut": (TEXTS[0][:-2], "expected sealedstate-key-1:<"),
    "no key": ("nonsense", "expected sealedstate-key-1:<"),
    "date": (f"{TEXTS[0]}@tomorrow", "ISO 8601"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_bad_key_is_named_by_its_variable_its_file_and_its_line(
    mistake: str, tmp_path: Path
) -> None:
    text, problem = MISTAKES[mistake]
    messages = {
        f"keys: the file {tmp_path}/keys, line 4": refusal(
            key_file(tmp_path, f"\ufeff# keys\n\n{TEXTS[1]}\r\n{text}\r\n")
        ),
        "SEALEDSTATE_KEYS, key 2": refusal(
            "env:", {"SEALEDSTATE_KEYS": f"{TEXTS[1]},{text},{TEXTS[2]}"}
        ),
        "keys: key 2": refusal([TEXTS[1], text]),
    }
    for place, message in messages.items():
        assert message.startswith(f"{place}: "), message
        assert problem in message
        assert SECRET[:-2] not in message


def test_two_keys_on_a_line_and_an_empty_file_are_named(tmp_path: Path) -> None:
    for text in (f"{TEXTS[0]} {TEXTS[1]}\n", f"{TEXTS[0]},{TEXTS[1]}\n"):
        assert "line 1: there are two keys" in refusal(key_file(tmp_path, text))
    for text in ("", "\n# nothing\n"):
        assert f"{tmp_path}/keys contains no key" in refusal(key_file(tmp_path, text))
    assert "line 2: a comment" in refusal(key_file(tmp_path, f"{TEXTS[0]}\n{TEXTS[1]} # old\n"))
    assert "must be first" in refusal(
        "env:", {"SEALEDSTATE_KEYS": f"{TEXTS[0]} {TEXTS[1]}@2026-12-01T00:00:00Z"}
    )


def test_place_that_is_no_file_of_keys_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"#" * (1 << 21))
    for name, problem in {
        "pipe": "is not a regular file",
        ".": "is not a regular file",
        "missing": "cannot be read: No such file",
        "large": "is larger than",
    }.items():
        message = refusal(f"file:{tmp_path / name}")
        assert message.startswith(f"keys: the file {tmp_path / name} {problem}")
    assert "invisible character" in refusal(f"file:{tmp_path}/a\nb")


# --- a file that changes --------------------------------------------------------------------------


class Watched:
    """A source of keys in a file, its clock and what it reported."""

    def __init__(self, path: Path) -> None:
        self.now = 1_795_334_400.0
        self.events: list[Event] = []
        self.source: Any = open_keys(
            Settings(
                keys=f"file:{path}",
                environ={},
                reload_every=60,
                clock=lambda: self.now,
                monotonic=lambda: self.now,
                observers=[self.events.append],
            )
        )

    def kids_after(self, seconds: float) -> list[bytes]:
        self.now += seconds
        return [key.kid for key in self.source.keyring().keys]

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """A file of keys as Kubernetes mounts a secret: behind a link that is exchanged."""
    publish(tmp_path, "1", TEXTS[0])
    (tmp_path / "keys").symlink_to("..data/keys")
    return tmp_path / "keys"


def publish(folder: Path, version: str, text: str) -> None:
    version = f"..{version}"
    (folder / version).mkdir()
    (folder / version / "keys").write_text(text)
    (folder / "..new").symlink_to(version)
    (folder / "..new").rename(folder / "..data")


def test_changed_keys_of_a_file_are_in_use_after_reload_every(mounted: Path) -> None:
    watched = Watched(mounted)
    publish(mounted.parent, "2", f"{TEXTS[1]}\n{TEXTS[0]}\n")
    assert watched.kids_after(59) == [FIRST.kid]
    assert watched.kids_after(1) == [SECOND.kid, FIRST.kid]
    assert watched.names == ["ring-reloaded"]
    assert watched.source.read_at() == watched.now


def test_unknown_key_lets_the_file_be_read_once_a_second(mounted: Path) -> None:
    watched = Watched(mounted)
    publish(mounted.parent, "2", "\n".join(TEXTS[:2]))
    assert watched.source.seek(SECOND.kid)
    publish(mounted.parent, "3", "\n".join(TEXTS[:3]))
    assert not watched.source.seek(THIRD.kid)
    watched.now += 1
    assert watched.source.seek(THIRD.kid)


def test_file_without_a_former_key_is_in_use_once_it_stays_so(mounted: Path) -> None:
    watched = Watched(mounted)
    whole = f"{TEXTS[1]}\n{TEXTS[0]}\n"
    publish(mounted.parent, "2", whole)
    assert watched.kids_after(60) == [SECOND.kid, FIRST.kid]
    # Whatever writes it may have come to the end of a line only.
    publish(mounted.parent, "3", TEXTS[1])
    assert watched.kids_after(60) == [SECOND.kid, FIRST.kid]
    watched.now += 1
    assert not watched.source.seek(THIRD.kid)
    assert watched.kids_after(0) == [SECOND.kid, FIRST.kid]
    publish(mounted.parent, "4", whole)
    assert watched.kids_after(60) == [SECOND.kid, FIRST.kid]
    publish(mounted.parent, "5", TEXTS[1])
    assert watched.kids_after(60) == [SECOND.kid, FIRST.kid]
    assert watched.kids_after(60) == [SECOND.kid]
    assert "ring-refused" not in watched.names


FAULTS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: publish(path.parent, "2", ""),
    "cut": lambda path: publish(path.parent, "2", TEXTS[1][:-5]),
    "ring": lambda path: publish(path.parent, "2", '{"format": "sealedstate-ring-1"}'),
    "not active yet": lambda path: publish(path.parent, "2", f"{TEXTS[1]}@2999-01-01T00:00:00Z"),
    "directory": lambda path: path.with_name("..data").rename(path),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_last_good_keys_of_a_file_stay_in_use_and_the_fault_is_reported_once(
    mounted: Path, fault: str
) -> None:
    watched = Watched(mounted)
    assert watched.kids_after(60) == [FIRST.kid]
    read_at = watched.now
    FAULTS[fault](mounted)
    for _ in range(3):
        assert watched.kids_after(60) == [FIRST.kid]
    assert watched.names == ["ring-refused"]
    (event,) = watched.events
    assert event.detail == watched.source.last_error
    assert event.detail is not None
    assert event.detail.startswith("the last good keys stay in use: keys: ")
    assert watched.source.read_at() == read_at
    mounted.unlink(missing_ok=True)
    mounted.write_text(f"{TEXTS[1]}\n{TEXTS[0]}")
    assert watched.kids_after(60) == [SECOND.kid, FIRST.kid]
    assert watched.names == ["ring-refused", "ring-reloaded"]
    assert (watched.source.last_error, watched.source.read_at()) == (None, watched.now)


def test_file_of_keys_is_found_after_the_process_changed_its_directory(
    mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mounted.parent)
    watched = Watched(Path("keys"))
    monkeypatch.chdir("/")
    publish(mounted.parent, "2", f"{TEXTS[1]}\n{TEXTS[0]}")
    assert watched.kids_after(60) == [SECOND.kid, FIRST.kid]


# --- objects that pass everything on --------------------------------------------------------------


class Proxy:
    """Passes everything on, as clients that trace or retry do."""

    def __init__(self, target: object) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


def test_proxy_of_a_store_or_a_key_source_is_as_good_as_its_target() -> None:
    source = Proxy(StaticKeys(parse_keyring(TEXTS, SKEW)))
    store = Proxy(MemoryStorage(time.time))
    given: Any = {"keys": source, "storage": store, "accept_weak_store_for": ["revocation"]}
    deployment = Deployment.open(Settings(**given))
    assert deployment.key_source is source
    assert deployment.store is store
    assert is_managed(store)
    routed = RoutedStorage(store, {})
    routed.delete_context("c")
    for wrong in (Proxy(object()), MemoryStorage, object(), StaticKeys):
        with pytest.raises(ConfigurationError, match=r"storage: expected a URL"):
            Deployment.open(Settings(**given | {"storage": wrong}))
        with pytest.raises(ConfigurationError, match="keys: must be text"):
            Deployment.open(Settings(**given | {"keys": wrong}))


# --- a ring that cannot be written ----------------------------------------------------------------


def test_ring_that_no_process_here_can_write_stops_a_start_that_is_to_rotate_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / "ring.json"
    given = Settings(keys=f"file:{real}", environ={}, rotate_in_process=False)
    ring = create_ring(given.rotation().schedule, int(time.time()), os.urandom)
    assert open_ring_storage(given).write(ring, None)
    link = tmp_path / "ring.json"
    link.symlink_to(real)
    message = refusal(f"file:{link}")
    assert "is a symbolic link" in message
    assert "set rotate_in_process to false" in message
    source: Any = open_keys(replace(given, keys=f"file:{link}"))
    assert source.ring == ring


@pytest.mark.parametrize(
    ("version", "options", "is_refused"),
    [
        ((2, 0, 23, 0, b""), {"master": True}, True),
        ((2, 0, 23, 0, b""), {"enable-threads": True}, False),
        ((2, 0, 23, 0, b""), {"threads": b"2"}, False),
        ((2, 0, 26, 0, b""), {"master": True}, True),
        ((2, 0, 27, 0, b""), {"master": True}, False),
    ],
)
def test_uwsgi_that_runs_no_threads_cannot_rotate_a_ring(
    version: tuple[object, ...],
    options: dict[str, object],
    is_refused: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = SimpleNamespace(version_info=version, opt=options)
    monkeypatch.setitem(sys.modules, "uwsgi", cast(ModuleType, module))
    given = Settings(keys=f"file:{tmp_path / 'ring.json'}", environ={}, rotate_in_process=False)
    ring = create_ring(given.rotation().schedule, int(time.time()), os.urandom)
    assert open_ring_storage(given).write(ring, None)
    open_keys(given)
    if is_refused:
        assert "set its enable-threads" in refusal(f"file:{tmp_path / 'ring.json'}")
    else:
        open_keys(replace(given, rotate_in_process=True))

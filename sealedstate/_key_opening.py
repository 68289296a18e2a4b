"""Where keys come from: the configuration, the environment, a file, a ring that rotates.

Knows which source a setting names. Does not know what keys seal.

A source of one's own, over a key management service say, is any object with a method
``keyring() -> Keyring``. It is asked on every request, so it answers from memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ._stored.table import Rows
from .errors import ConfigurationError
from .events import EventLog
from .key_sources import KeySource, StaticKeys, from_environment, from_secrets_file, parse_keyring
from .keyring import Keyring
from .rotation import RingStorage
from .rotation.reports import FileReports, ReportStore, StoredReports
from .rotation.ring_file import RingFile
from .rotation.ring_store import KEK_VARIABLE, StoredRing
from .rotation.source import RotatingKeySource, RotationConfig
from .storage.check import StorageCheck
from .storage.contract import Storage


@dataclass(frozen=True, slots=True)
class KeySources:
    """Opens the source that the setting `keys` names, with what it may need. `skew` in seconds."""

    environ: Mapping[str, str]
    skew: int
    realm: str
    storage: Storage | None
    tending: RotationConfig
    journal: EventLog
    tolerate: Sequence[str] = ()

    def open(self, keys: str | Sequence[str] | KeySource) -> KeySource:
        """`keys`: ``"env:"`` or ``"env:NAME"``, ``"file:PATH"`` (a ring document, or keys one a
        line), ``"store:"``, one key, a list of keys of which the first seals, or a source.

        Raises ConfigurationError, or OperatorError where a ring can't be loaded.
        """
        if isinstance(keys, KeySource):
            return keys
        if not isinstance(keys, str):
            if not isinstance(keys, Sequence) or not all(isinstance(key, str) for key in keys):
                raise ConfigurationError("keys: text, a list of texts, or an object with keyring()")
            return StaticKeys(parse_keyring(keys, self.skew))
        scheme, _, rest = keys.partition(":")
        if scheme == "env":
            return StaticKeys(from_environment(self.environ, rest or "SEALEDSTATE_KEYS", self.skew))
        if scheme == "file":
            return self._from_file(Path(rest))
        if scheme == "store":
            # A store that could forget the ring would be given another, and all sessions end.
            StorageCheck(self._store(), ("ring",), self.tolerate).check()
            return self._tended(self.ring_home(keys), self.report_board(keys), founds=True)
        if not keys.strip():
            raise ConfigurationError("keys is empty; `sealedstate keys generate` prints a key")
        return StaticKeys(parse_keyring([keys], self.skew))

    def ring_home(self, keys: str, takes_clear: bool = False) -> RingStorage:
        """Where the ring of ``"file:PATH"`` or ``"store:"`` is kept.

        `takes_clear`: whether a file in clear is read although a key-encryption key is set.
        """
        scheme, _, rest = keys.partition(":")
        tending, wrapping = self.tending, self._wrapping()
        if scheme == "file" and rest:
            path, random, clock = Path(rest), tending.random, tending.clock
            return RingFile(path, wrapping, random, clock, takes_clear=takes_clear)
        if scheme == "store" and not rest:
            storage = self._store()
            return StoredRing(storage, self.realm, wrapping, tending.random, tending.clock)
        raise ConfigurationError('keys: a ring that rotates is in "file:PATH" or "store:"')

    def report_board(self, keys: str) -> ReportStore:
        """Where the nodes of that ring tell about themselves."""
        scheme, _, rest = keys.partition(":")
        if scheme == "file":
            return FileReports(Path(f"{rest}.nodes"))
        rows = Rows(self.realm, self.tending.random)
        wrapping = from_environment(self.environ, KEK_VARIABLE, self.skew)
        return StoredReports(self._store(), rows, wrapping)

    def _from_file(self, path: Path) -> KeySource:
        if not is_ring(path):
            return StaticKeys(from_secrets_file(path, self.skew))
        keys = f"file:{path}"
        return self._tended(self.ring_home(keys), self.report_board(keys), founds=False)

    def _tended(self, home: RingStorage, board: ReportStore, founds: bool) -> RotatingKeySource:
        return RotatingKeySource(home, self.tending, self.journal, board, founds)

    def _store(self) -> Storage:
        if self.storage is None:
            raise ConfigurationError('keys: "store:" needs the setting storage')
        return self.storage

    def _wrapping(self) -> Keyring | None:
        if not self.environ.get(KEK_VARIABLE, "").strip():
            return None
        try:
            return from_environment(self.environ, KEK_VARIABLE, self.skew)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{KEK_VARIABLE}: {error} (`sealedstate keys generate --kek`)"
            ) from None


def is_ring(path: Path) -> bool:
    """Whether a file is to be a ring document: by its name, or by how it begins."""
    if path.suffix == ".json":
        return True
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip()[:1] == b"{"
    except OSError:
        return False

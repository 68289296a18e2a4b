"""The sweep over what is stored for years: what other keys than the primary sealed is sealed anew.

Knows rows, and which contexts last. Does not know what a value means, where keys come from, or what
becomes of one that nothing needs any more.

Values are sealed anew when they are written, too. The sweep is for those that nobody writes: after
it, a key that no row names can go. It may be stopped, and done again, at any time; who writes
meanwhile is not disturbed, and wins.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from .._wire import token as sealing
from ..errors import OutcomeUnknown, StorageUnavailable, UnreadableError, VersionMismatch
from ..keyring import Keyring
from ..storage.contract import Storage, Stored, next_version
from ..storage.requirements import USES
from .table import Rows

LASTING = tuple(context for use in USES.values() if use.lasting for context in use.contexts)
WRITE_TRIES = 16


@dataclass(slots=True)
class Swept:
    """What a sweep has found. `needed`: how many rows each kid seals now; b"" for no kid at all.

    `unreadable`: how many rows there are that do not open here, by reason. They stay as they are.
    """

    seen: int = 0
    resealed: int = 0
    needed: Counter[bytes] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)

    def count(self, kid: bytes, resealed: int = 0, unreadable: str | None = None) -> None:
        """Count a row that `kid` seals now."""
        self.seen += 1
        self.resealed += resealed
        self.needed[kid] += 1
        if unreadable is not None:
            self.unreadable[unreadable] += 1


@dataclass(frozen=True, slots=True)
class Sweep:
    """Goes over the lasting rows of one store.

    `ring`: the keys that open, of which the primary at `now` (epoch seconds) seals.
    """

    storage: Storage
    rows: Rows
    ring: Keyring
    now: float

    def run(self) -> Swept:
        """Seal anew what is not sealed by the primary. Raises StorageError or NoPrimaryKey."""
        swept, primary = Swept(), self.ring.primary(int(self.now)).kid
        for context in LASTING:
            for key in self.storage.keys(context):
                self._visit(context, key, primary, swept)
        return swept

    def _visit(self, context: str, key: str, primary: bytes, swept: Swept) -> None:
        for _ in range(WRITE_TRIES):
            stored = self.storage.read(context, key)
            if stored is None:
                return  # gone since it was listed
            kid = sealing.kid_of(stored.value) or b""
            try:
                data = self.rows.open_row(context, key, stored, self.ring, self.now)
            except UnreadableError as error:
                swept.count(kid, unreadable=error.reason)
                return
            if kid == primary:
                swept.count(kid)
                return
            if self._written(context, key, stored, data):
                swept.count(primary, resealed=1)
                return
        raise StorageUnavailable(f"a row was written by others {WRITE_TRIES} times in a row")

    def _written(self, context: str, key: str, stored: Stored, data: bytes) -> bool:
        """Whether it stands there sealed anew; else somebody else wrote, or nobody can tell."""
        version = next_version(self.now, stored.version)
        value = self.rows.seal_row(context, key, version, data, self.ring, self.now)
        try:
            return self.storage.update(
                context, key, value, stored.expires_at, version, stored.version
            )
        except (VersionMismatch, OutcomeUnknown):
            return False  # the next look shows it

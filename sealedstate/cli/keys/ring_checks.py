"""What may be wrong with a ring, its dates and the place where it is kept.

Knows rings, schedules, file modes and one configuration. Does not know nodes: what they tell is
`node_findings`.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigurationError, OperatorError, StorageError
from ...rotation.ring import Ring, RingReplaced, Schedule
from ...rotation.ring_store import CONTEXT
from ...rotation.source import RotationConfig
from ...rotation.transitions import obsolete_long_term
from ...storage import USES, RoutedStorage, Storage, mismatch
from ...storage.requirements import Use, store_name
from ..output import duration, exact, plain, relative
from .source import Look, RingSource, is_far, newest

# FOLD sealedstate.cli.findings
# What a check finds: one sentence that says what is wrong and what to do.
#
# Knows how findings are named. Does not know how they are found.


@dataclass(frozen=True, slots=True)
class Finding:
    """`about`: what was looked at, of a fixed set of words; `subject`: which key, file or node.

    Both together name a finding as long as it lasts; its sentence may change with time.
    """

    about: str
    subject: str
    sentence: str

    @property
    def name(self) -> tuple[str, str]:
        return (self.about, self.subject)


# A ring needs of a store what a logout needs, and for the same reasons.
RING_USE = Use("a ring of keys", "the keys of all nodes", USES["revocation"].needs, (CONTEXT,))


# --- the place ----------------------------------------------------------------------------------


def of_place(source: RingSource) -> Iterator[Finding]:
    """What is wrong with files and stores, whatever they hold."""
    if source.path is not None:
        yield from _of_file(source.path, source.is_wrapped)
        yield from _of_file(Path(f"{source.path}.prev"), source.is_wrapped)
        yield from _of_folder(source.path.parent)
    if source.storage is not None:
        yield from _of_store(source.storage)


def _of_file(path: Path, is_wrapped: bool) -> Iterator[Finding]:
    mode, name = _mode(path, stat.S_ISREG), plain(path)
    if mode & (stat.S_IWOTH | stat.S_IWGRP):
        others = "everybody" if mode & stat.S_IWOTH else "its group"
        yield Finding(
            "permissions",
            name,
            f"{name} can be written by {others}, who can put other keys in: chmod 600 it, and look"
            " at `sealedstate keys list` whether these are the keys that you know",
        )
    elif mode & stat.S_IROTH and not is_wrapped:
        yield Finding(
            "permissions",
            name,
            f"{name} can be read by everybody, and holds keys: chmod o-r it, and if somebody may"
            " have read it, revoke its keys",
        )


def _of_folder(folder: Path) -> Iterator[Finding]:
    if _mode(folder, stat.S_ISDIR) & stat.S_IWOTH:
        yield Finding(
            "permissions",
            plain(folder),
            f"everybody can put files into {plain(folder)}, also in the place of the ring: chmod"
            " o-w it, or keep the ring in a directory of its own",
        )


def _mode(path: Path, is_it: Callable[[int], bool]) -> int:
    """No rights at all where there is nothing, another thing, or nothing that we may look at."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return 0
    return stat.S_IMODE(mode) if is_it(mode) else 0


def _of_store(storage: Storage) -> Iterator[Finding]:
    while isinstance(storage, RoutedStorage):
        storage = storage.store_of(CONTEXT)
    name, capabilities = store_name(storage), storage.capabilities
    # What is only presumed is judged once the store has answered.
    wrong = None if capabilities.presumed else mismatch(RING_USE, name, capabilities)
    if wrong is not None:
        yield Finding("store", name, f"{wrong}: keep it in another store, or in a file")


def of_missing(source: RingSource, error: OperatorError) -> Finding:
    """Why there is no ring to be looked at."""
    wrong, where = plain(error, 500), plain(source.home.location)
    if isinstance(error, RingReplaced):
        return Finding("ring", where, wrong)
    if isinstance(error.__cause__, PermissionError):
        return Finding("ring", where, f"{wrong}: give the file to the application's user")
    if isinstance(error, StorageError):
        return Finding("ring", where, f"{wrong}: see what `sealedstate store check` says")
    if source.path is None:
        return Finding("ring", where, f"{wrong}{_or_another_kek()}")
    if source.path.exists() or source.path.is_symlink():
        return Finding(
            "ring", where, f"{wrong}: restore it {_from_prev(source)}{_or_another_kek()}"
        )
    if Path(f"{source.path}.lock").exists():
        return Finding(
            "ring",
            where,
            f"{where} is gone: a node that runs puts it back, else restore it {_from_prev(source)}",
        )
    return Finding("ring", where, wrong)


def _from_prev(source: RingSource) -> str:
    prev = Path(f"{source.path}.prev")
    return f"from {plain(prev)} or a backup" if prev.exists() else "from a backup"


def _or_another_kek() -> str:
    return "; or SEALEDSTATE_KEK is not the one that it was made with: set that one"


# --- the ring -----------------------------------------------------------------------------------


def of_ring(look: Look, config: RotationConfig, is_configured: bool) -> Iterator[Finding]:
    """What is wrong with a ring by itself."""
    ring, now = look.ring, look.now
    yield from _of_primary(ring, now)
    yield from _of_rotation(ring, now)
    yield from _of_far_keys(ring, now)
    yield from _of_lasting_keys(ring, now)
    if is_configured:
        yield from _of_promises(ring.schedule, config)


def _of_primary(ring: Ring, now: int) -> Iterator[Finding]:
    if ring.primary(now) is not None:
        return
    turn = min((key.activates_at for key in ring.keys if key.disabled_at is None), default=None)
    if turn is None:
        what = "enable one, or run `sealedstate keys rotate`, which adds one"
    else:
        what = (
            f"the first one's turn comes {relative(turn, now)}: if this machine's clock is right,"
            " run `sealedstate keys rotate --now`"
        )
    yield Finding("primary", "", f"no key of the ring may seal, so that nobody can sign in; {what}")


def _of_rotation(ring: Ring, now: int) -> Iterator[Finding]:
    key, schedule = newest(ring, now), ring.schedule
    if key is None or now - key.activates_at <= schedule.rotate_every + schedule.announce:
        return
    yield Finding(
        "rotation",
        "",
        f"the newest key, {key.kid.hex()}, seals since {relative(key.activates_at, now)}, though"
        f" another is due every {duration(schedule.rotate_every)}: nobody rotates; run"
        " `sealedstate keys rotate` from cron, or see in the logs of nodes with"
        " rotate_in_process why"
        " they don't",
    )


def _of_far_keys(ring: Ring, now: int) -> Iterator[Finding]:
    for key in ring.keys:
        if is_far(ring, key, now):
            kid = key.kid.hex()
            yield Finding(
                "far-future",
                kid,
                f"{kid} is to seal only {relative(key.activates_at, now)}: a node made it whose"
                f" clock was wrong; set all clocks, then run `sealedstate keys revoke {kid}`",
            )


def _of_lasting_keys(ring: Ring, now: int) -> Iterator[Finding]:
    """Keys that are over stay until somebody has made sure that nothing needs them."""
    if not ring.long_term:
        yield Finding(
            "lasting-key",
            "",
            "the ring is of a time when rings had no key for what is stored for years, such as"
            " consents: run `sealedstate keys rotate --lasting`",
        )
    for key in obsolete_long_term(ring, now):
        kid = key.kid.hex()
        yield Finding(
            "lasting-key",
            kid,
            f"{kid} seals nothing any more, and may still be needed by what is stored for years:"
            " run `sealedstate keys reseal --destroy`, which looks at all of it",
        )


def _of_promises(schedule: Schedule, config: RotationConfig) -> Iterator[Finding]:
    """One after the other, for each inequality is a finding of its own."""
    reload_every, skew = config.reload_every, config.skew
    longer = "; run `sealedstate keys rotate` with this configuration, which lengthens the ring's"
    if broken := _broken(config.schedule, reload_every, 1, skew):
        yield Finding("coverage", "announce", f"{broken}; set a longer announce, then rotate")
    elif broken := _broken(schedule, reload_every, 1, skew):
        yield Finding("coverage", "announce", f"{broken}{longer}")
    if broken := _broken(schedule, 0, config.lifetime, 0):
        yield Finding("coverage", "keep", f"{broken}{longer}")


def _broken(schedule: Schedule, reload_every: int, lifetime: int, skew: int) -> str | None:
    try:
        schedule.check(reload_every, lifetime, skew)
    except ConfigurationError as error:
        return str(error)
    return None


# --- clocks -------------------------------------------------------------------------------------


def of_clocks(source: RingSource, look: Look) -> Iterator[Finding]:
    """Where the last writer's clock, this one and that of the volume are apart."""
    written, skew = look.ring.updated_at, look.ring.schedule.skew
    if written > look.now + skew:
        yield Finding(
            "clock",
            "writer",
            f"the ring was last written at {exact(written)}, which is"
            f" {relative(written, look.now)}: the clock of this machine, or of the one that wrote"
            " it, is wrong; set both by NTP",
        )
    touched = _touched_at(source.path)
    if touched is not None and touched > look.now + skew:
        yield Finding(
            "clock",
            "volume",
            f"the ring file was changed {relative(touched, look.now)} by the clock of its volume:"
            " that, or the one of this machine, is wrong; set both by NTP",
        )
    elif touched is not None and written > touched + skew:
        yield Finding(
            "clock",
            "volume",
            f"the ring says that it was written {duration(written - touched)} after its file was:"
            " the clock of who wrote it is ahead of the volume's; set both by NTP",
        )


def _touched_at(path: Path | None) -> int | None:
    try:
        return None if path is None else int(path.stat().st_mtime)
    except OSError:
        return None

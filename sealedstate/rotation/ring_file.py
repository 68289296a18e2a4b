"""The ring in one file, for the processes of one machine or of a shared volume.

Knows files, locks and crashes. Does not know what a ring means, nor when it changes.

Beside the file PATH stand

    PATH.lock   locked (flock) by whoever writes. It is never removed, and holds the id and the
                sequence of the ring that is there: should PATH vanish, no other ring is begun in
                silence, and none put back that is older
    PATH.prev   the document before the last write, from which an operator can restore
    PATH.*.tmp  a write under way, or one that crashed, which the next write removes

A write is synced under another name and renamed, so that readers, who take no lock, see the old
ring or the new one. What a revocation or an expiry took out of the ring is still in PATH.prev until
the next write. Files are readable by their owner, and by a group that could read the ring before.
All writers run as one user or as root, who gives what he writes to the owner of what was there.

A path that is a symbolic link, such as a mounted secret of Kubernetes, is read through, and never
written: a rename would put a file of this node in the place of the link.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from logging import getLogger
from pathlib import Path

from ..errors import ConfigurationError, OperatorError
from ..keyring import Keyring
from ..storage.contract import Clock
from . import Ring, RingReplaced, RingUnreadable
from .document import MAX_BYTES, RingCodec

if sys.platform != "win32":
    import fcntl

# No request waits for it; a disk that stalls may make each writer before us slow.
DEFAULT_TIMEOUT = 30.0
POLL_SECONDS = 0.005
MARKER_BYTES = 100
TEMPORARY_BYTES = 8

_log = getLogger("sealedstate.keys")


class RingFile:
    """A `RingStorage` in the file at `path`. `timeout`: seconds to wait for another writer.

    `wrapping`: the key-encryption keys, of which the first wraps; None where the file itself is
    kept secret. `takes_clear`: whether a ring in clear is read all the same, to be wrapped.

    Raises ConfigurationError where the system has no flock.
    """

    def __init__(
        self,
        path: str | Path,
        wrapping: Keyring | None,
        random: Callable[[int], bytes],
        clock: Clock,
        timeout: float = DEFAULT_TIMEOUT,
        takes_clear: bool = False,
    ) -> None:
        if sys.platform == "win32":
            raise ConfigurationError(
                "a ring in a file needs flock, which Windows has not; keep the ring in a store"
            )
        self._path = Path(path).absolute()  # even if the process moves to another directory
        self._lock = self._beside(".lock")
        where = f"the ring file {self._path}"
        self._text = RingCodec(where, wrapping, random, clock, takes_clear)
        self._random = random
        self._timeout = timeout
        self._may_warn = wrapping is None

    @property
    def where(self) -> str:
        return self._text.where

    def load(self) -> Ring | None:
        """The ring of the file, the same object while the file says the same."""
        with self._told():
            marker = self._remembered()  # first: it never says more than the file that comes next
            ring = self._text.read(self._read())
        if ring is not None and marker and not _continues(ring, marker):
            raise RingReplaced(self._told_of(ring, marker), ring)
        return ring

    def write(self, ring: Ring, after: Ring | None) -> bool:
        """As `RingStorage`. Where the file has vanished, only what was there is put back."""
        with self._told(), self._locked() as lock:
            self._refuse_link()
            content = self._whole(lock, ring, after)
            if self._text.read(content) != after:
                return False
            if content is None:
                self._refuse_another(lock, ring)
            self._replace(content, self._text.written(ring), lock)
            _mark(lock, ring)
        return True

    # --- reading --------------------------------------------------------------------------------

    def _remembered(self) -> str:
        """Which ring was there last, as far as this process may know."""
        with contextlib.suppress(FileNotFoundError, PermissionError):
            lock = os.open(self._lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                return _marker(lock)
            finally:
                os.close(lock)
        return ""

    def _told_of(self, ring: Ring, marker: str) -> str:
        ring_id, _, sequence = marker.partition(" ")
        go_on = f"stop all processes and remove {self._lock}"
        if ring.ring_id == ring_id:
            return (
                f"{self.where} is an older copy, of sequence {ring.sequence}, and {int(sequence)}"
                " was there: a process that runs puts that back. To go on with the copy,"
                f" {go_on}; then revoke again what was revoked since"
            )
        return (
            f"{self.where} is the ring {ring.ring_id}, and {ring_id} was there: bring that back."
            f" To go on with this one, which ends the sessions of the other, {go_on}"
        )

    def _whole(self, lock: int, ring: Ring, after: Ring | None) -> bytes | None:
        """What is there; None also for what is left of the ring that `ring` is or continues."""
        content = self._read()
        try:
            self._text.read(content)
        except RingUnreadable:
            marker = _marker(lock)
            if after is not None or not marker or not _continues(ring, marker):
                raise
            return None
        return content

    def _read(self) -> bytes | None:
        try:
            # A pipe in its place would otherwise be waited for.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            if self._path.is_symlink():
                raise OperatorError(f"{self.where} is a symbolic link to nothing") from None
            return None
        try:
            self._judge(os.fstat(descriptor).st_mode)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)

    def _judge(self, mode: int) -> None:
        if not stat.S_ISREG(mode):
            raise OperatorError(f"{self.where} is no regular file")
        if mode & stat.S_IROTH and self._may_warn:
            self._may_warn = False
            _log.warning("%s can be read by everybody; chmod o-r it", self.where)

    # --- writing --------------------------------------------------------------------------------

    def _refuse_link(self) -> None:
        if self._path.is_symlink():
            raise OperatorError(
                f"{self.where} is a symbolic link, which a write would replace; name"
                f" {os.path.realpath(self._path)} where the ring is to rotate by itself"
            )

    def _refuse_another(self, lock: int, ring: Ring) -> None:
        marker = _marker(lock)
        if marker and not _continues(ring, marker):
            raise OperatorError(
                f"{self.where} is gone, and the ring {marker} was there: restore it,"
                f" from {self._beside('.prev')} or a backup; or, to begin another, which ends all"
                f" sessions, remove {self._lock}"
            )

    def _replace(self, old: bytes | None, new: bytes, lock: int) -> None:
        self._remove_leftovers()
        like = (self._path.parent if old is None else self._path).stat()
        _give(lock, like)
        if old is not None:
            self._put(self._beside(".prev"), old, like)
        self._put(self._path, new, like)
        _sync_folder(self._path.parent)

    def _remove_leftovers(self) -> None:
        temporary = re.compile(
            rf"{re.escape(self._path.name)}\.[0-9a-f]{{{2 * TEMPORARY_BYTES}}}\.tmp"
        )
        for file in list(self._path.parent.iterdir()):  # a fault must leave no directory open
            if temporary.fullmatch(file.name):
                file.unlink()

    def _put(self, path: Path, content: bytes, like: os.stat_result) -> None:
        """Make `path` hold `content`; whatever happens, the old content or all of the new."""
        temporary = self._beside(f".{self._random(TEMPORARY_BYTES).hex()}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
        try:
            _fill(descriptor, content, like)
            temporary.rename(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def _beside(self, suffix: str) -> Path:
        return Path(f"{self._path}{suffix}")

    # --- the lock -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        lock = self._acquired()
        try:
            yield lock
        finally:
            try:
                # A child that was forked meanwhile has it open, too: closing it here is too little.
                fcntl.flock(lock, fcntl.LOCK_UN)
            finally:
                os.close(lock)

    def _acquired(self) -> int:
        give_up_at = time.monotonic() + self._timeout
        while (lock := self._tried()) is None:
            if time.monotonic() >= give_up_at:
                raise OperatorError(
                    f"{self.where}: another process has held {self._lock} for {self._timeout} s"
                )
            time.sleep(POLL_SECONDS)
        return lock

    def _tried(self) -> int | None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock, held = os.open(self._lock, flags, 0o600), False
        try:
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Somebody may have removed it just now: then others lock the next one.
                held = os.path.samestat(os.fstat(lock), self._lock.stat())
        finally:
            if not held:
                os.close(lock)
        return lock if held else None

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OperatorError(f"{self.where}: {_why(error)}") from error


def _fill(descriptor: int, content: bytes, like: os.stat_result) -> None:
    try:
        _give(descriptor, like)
        if stat.S_ISREG(like.st_mode) and like.st_mode & stat.S_IRGRP:
            os.fchown(descriptor, -1, like.st_gid)
            os.fchmod(descriptor, 0o640)
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _give(descriptor: int, like: os.stat_result) -> None:
    """What root makes would else shut out the application, whose ring it is."""
    if os.geteuid() == 0:
        os.fchown(descriptor, like.st_uid, like.st_gid)


def _why(error: OSError) -> str:
    """What went wrong, and where. A temporary file has another name each time: it is left out."""
    name = str(error.filename or "")
    return f"{error.strerror or error}{f': {name}' if name and not name.endswith('.tmp') else ''}"


def _sync_folder(folder: Path) -> None:
    """A name is no more durable than its directory."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _marker(lock: int) -> str:
    return os.pread(lock, MARKER_BYTES, 0).decode(errors="replace").partition("\n")[0]


def _mark(lock: int, ring: Ring) -> None:
    """Remember which ring is there: last of all, for the mark of none would stop everybody."""
    # Always as long, so that one write overwrites the last one.
    os.pwrite(lock, f"{ring.ring_id} {ring.sequence:020}\n".encode(), 0)
    os.fsync(lock)


def _continues(ring: Ring, marker: str) -> bool:
    ring_id, _, sequence = marker.partition(" ")
    return ring_id == ring.ring_id and sequence.isdecimal() and int(sequence) <= ring.sequence


def is_ring_file(path: Path) -> bool:
    """Whether a file holds a ring document, by its name or by its first bytes."""
    if path.suffix == ".json":
        return True
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip()[:1] == b"{"
    except OSError:
        return False

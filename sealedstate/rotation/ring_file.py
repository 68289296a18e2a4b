"""The ring in one file: for processes of one machine or of a shared volume.

Beside the file PATH there are

    PATH.lock   locked (flock) by the writer. It is never removed, and contains the id and the
                sequence of the ring that was written last: if PATH disappears, no other ring is
                created in silence, and no older ring is put back
    PATH.prev   the document before the last write, which an operator can restore
    PATH.*.tmp  a write in progress, or the remainder of a crash, which the next write removes

A write is synced under another name and renamed, so readers, which take no lock, see the old ring
or the new one. What a revocation or an expiry took out of the ring is still in PATH.prev until the
next write. Files are readable by their owner, and by a group that could read the ring before. All
writers run as one user or as root, and root gives its files to the owner of the old ones.

A symbolic link, such as a mounted secret of Kubernetes, is read through and never written: a rename
would put a file of this node in the place of the link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from logging import getLogger
from pathlib import Path

from .._forks import ForkHeldLock
from ..errors import ConfigurationError, OperatorError, escape_text
from ..keyring import Keyring
from ..storage.contract import Clock
from .document import MAX_BYTES, RingCodec, RingUnreadable
from .ring import Ring, RingReplaced

if sys.platform != "win32":
    import fcntl

__all__ = ["RingFile", "is_ring_file"]

# No request waits for the lock, and a slow disk can slow down each writer in the queue.
DEFAULT_TIMEOUT = 30.0
POLL_SECONDS = 0.005
MARKER_BYTES = 100
TEMPORARY_BYTES = 8

_MOUNTED = (
    "is a mount point, which a write cannot replace; mount the directory that contains the ring,"
    " and not the file"
)

_log = getLogger("sealedstate.keys")


class RingFile:
    """A `RingStorage` in the file at `path`.

    `wrapping`: the key-encryption keys, of which the first wraps; None if the file itself is kept
    secret. `timeout`: how many seconds to wait for another writer. `takes_clear`: whether to read a
    plaintext ring anyway, so that the next write wraps it.

    Raises ConfigurationError if the system has no flock.
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
                "keys: a ring in a file needs flock, which Windows does not have; keep the ring in"
                " a store"
            )
        self._path = Path(path).absolute()  # the process may change its directory
        self._lock = self._beside(".lock")
        self.location = f"the ring file {escape_text(self._path, 1000)}"
        self._codec = RingCodec(self.location, wrapping, random, clock, takes_clear)
        self._random = random
        self._timeout = timeout
        self._may_warn = wrapping is None
        self._no_fork = ForkHeldLock()

    def load(self) -> Ring | None:
        """The ring of the file, the same object while the file is the same."""
        with self._as_operator_error():
            # The marker first: then it is never newer than the file.
            marker = ""
            with contextlib.suppress(FileNotFoundError, PermissionError):
                lock = os.open(self._lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    marker = _read_marker(lock)
                finally:
                    os.close(lock)
            ring = self._codec.load(self._read())
        if ring is None or not marker or _continues(ring, marker):
            return ring
        ring_id, _, sequence = marker.partition(" ")
        remedy = f"stop all processes and remove {self._lock}"
        if ring.ring_id == ring_id:
            problem = (
                f"{self.location} is an older copy: its sequence is {ring.sequence}, and the last"
                f" one was {int(sequence)}. A running process puts that ring back. To use the copy,"
                f" {remedy}; then revoke again what was revoked since"
            )
        else:
            problem = (
                f"{self.location} is the ring {ring.ring_id}, but the last one was {ring_id}:"
                " restore that ring. To use the new ring, which ends all sessions of the old one,"
                f" {remedy}"
            )
        raise RingReplaced(problem, ring)

    def check_writable(self) -> None:
        """Raise OperatorError, with the remedy, if this process can never write the ring."""
        folder, problem = self._path.parent, None
        if self._path.is_symlink():
            problem = (
                "is a symbolic link, which a write would replace; to let the ring rotate, name"
                f" {escape_text(os.path.realpath(self._path), 1000)}"
            )
        elif self._path.is_dir():
            problem = (
                "is a directory, which Docker makes where the file to be mounted does not exist;"
                " remove it, and mount a directory that contains the ring"
            )
        elif _is_mount_point(self._path):
            problem = _MOUNTED
        elif not folder.is_dir():
            problem = f"is in a directory that does not exist; create {escape_text(folder)}"
        elif not os.access(folder, os.W_OK | os.X_OK):
            problem = (
                "cannot be written, because a write puts a new file beside it: let this process"
                f" write into {escape_text(folder)}, which may be mounted read-only"
            )
        if problem is not None:
            raise OperatorError(f"{self.location} {problem}")

    def write(self, ring: Ring, after: Ring | None) -> bool:
        """As `RingStorage`; for a file that has disappeared, only its last ring."""
        with self._as_operator_error():
            self.check_writable()
        with self._as_operator_error(), self._locked() as lock:
            content, marker = self._read(), _read_marker(lock)
            is_last = not marker or _continues(ring, marker)
            try:
                current = self._codec.load(content)
            except RingUnreadable:
                if after is not None or not marker or not is_last:
                    raise
                content = current = None  # a damaged remainder of `ring`, or of a former state
            if current != after:
                return False
            if content is None and not is_last:
                raise OperatorError(
                    f"{self.location} is gone, and it was the ring {marker}: restore it from"
                    f" {self._beside('.prev')} or a backup; or, to create another ring, which ends"
                    f" all sessions, remove {self._lock}"
                )
            self._replace(content, self._codec.dump(ring), lock)
            # Last of all, because a marker without its ring would stop all nodes. The length is
            # always the same, so that a write replaces the last marker.
            os.pwrite(lock, f"{ring.ring_id} {ring.sequence:020}\n".encode(), 0)
            os.fsync(lock)
        return True

    def _read(self) -> bytes | None:
        try:
            # O_NONBLOCK, because opening a pipe would wait for a writer.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            if self._path.is_symlink():
                raise OperatorError(f"{self.location} is a symbolic link to nothing") from None
            return None
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise OperatorError(f"{self.location} is not a regular file")
            if mode & stat.S_IROTH and self._may_warn:
                self._may_warn = False
                _log.warning("%s is readable by all users; run chmod o-r on it", self.location)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)

    def _replace(self, old: bytes | None, new: bytes, lock: int) -> None:
        temporary = re.compile(
            rf"{re.escape(self._path.name)}\.[0-9a-f]{{{2 * TEMPORARY_BYTES}}}\.tmp"
        )
        for file in list(self._path.parent.iterdir()):  # an error must leave no directory open
            if temporary.fullmatch(file.name):
                file.unlink()
        like = (self._path.parent if old is None else self._path).stat()
        _take_owner(lock, like)
        if old is not None:
            self._put(self._beside(".prev"), old, like)
        self._put(self._path, new, like)
        # A name is no more durable than its directory.
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _put(self, path: Path, content: bytes, like: os.stat_result) -> None:
        """Make `path` contain `content`, all of it or, after an error, none of it."""
        temporary = self._beside(f".{self._random(TEMPORARY_BYTES).hex()}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
        try:
            try:
                _take_owner(descriptor, like)
                if stat.S_ISREG(like.st_mode) and like.st_mode & stat.S_IRGRP:
                    os.fchown(descriptor, -1, like.st_gid)
                    os.fchmod(descriptor, 0o640)
                while content:
                    content = content[os.write(descriptor, content) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.rename(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def _beside(self, suffix: str) -> Path:
        return Path(f"{self._path}{suffix}")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        give_up_at = time.monotonic() + self._timeout
        while True:
            # A child would have the locked file open, too, and keep it locked if this process were
            # killed.
            with self._no_fork:
                if (lock := self._try_lock()) is not None:
                    try:
                        yield lock
                    finally:
                        try:
                            # Closing it would not unlock it for a child that was forked without
                            # Python's hooks.
                            fcntl.flock(lock, fcntl.LOCK_UN)
                        finally:
                            os.close(lock)
                    return
            if time.monotonic() >= give_up_at:
                raise OperatorError(
                    f"{self.location}: another process has held {self._lock} for {self._timeout} s"
                )
            time.sleep(POLL_SECONDS)

    def _try_lock(self) -> int | None:
        """The descriptor of the lock file, locked; None if another writer has it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock, is_locked = os.open(self._lock, flags, 0o600), False
        try:
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # If the file was removed a moment ago, other writers lock the next one.
                is_locked = os.path.samestat(os.fstat(lock), self._lock.stat())
        finally:
            if not is_locked:
                os.close(lock)
        return lock if is_locked else None

    @contextlib.contextmanager
    def _as_operator_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # A temporary file has another name each time, which would make each message a new one.
            name = str(error.filename or "")
            where = f": {name}" if name and not name.endswith(".tmp") else ""
            if error.errno == errno.EBUSY:
                raise OperatorError(f"{self.location} {_MOUNTED}") from error
            raise OperatorError(f"{self.location}: {error.strerror or error}{where}") from error


def _take_owner(descriptor: int, like: os.stat_result) -> None:
    """Give a file of root to the owner of the ring, so that it can be read."""
    if os.geteuid() == 0:
        os.fchown(descriptor, like.st_uid, like.st_gid)


def _read_marker(lock: int) -> str:
    return os.pread(lock, MARKER_BYTES, 0).decode(errors="replace").partition("\n")[0]


def _continues(ring: Ring, marker: str) -> bool:
    """Whether `ring` is the ring of the marker or a later state of it."""
    ring_id, _, sequence = marker.partition(" ")
    return ring_id == ring.ring_id and sequence.isdecimal() and int(sequence) <= ring.sequence


def _is_mount_point(path: Path) -> bool:
    """Whether something is mounted at `path`, which may be a file, as far as Linux says."""
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return path.is_mount()
    # A blank and some other characters are written in octal.
    shown = "".join(f"\\{x:03o}" if chr(x) in " \t\n\\" else chr(x) for x in os.fsencode(path))
    return any(line.split()[4:5] == [shown.encode("latin-1")] for line in mounts.splitlines())


def is_ring_file(path: Path) -> bool:
    """Whether a file contains a ring: by its name (``.json``), its lock, or its first byte."""
    if path.suffix == ".json" or Path(f"{path}.lock").exists():
        return True
    try:
        # O_NONBLOCK, because opening a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            return is_regular and os.read(descriptor, 64).lstrip()[:1] == b"{"
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return False

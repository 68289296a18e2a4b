"""What a process knows of logouts without asking: `Feed`.

Rows of logouts are created and raised, and never deleted before they expire. So a process can keep
all of them in its memory and read once a second what was added: it answers "was this session
logged out?" by looking there, and states how old that answer may be.

The age of what it knows counts from before the question that brought it was sent until after the
look, by two clocks: one that continues while the machine sleeps, and the wall clock, because a
virtual machine that is resumed elsewhere may have stopped the first.
"""

from __future__ import annotations

import binascii
import contextlib
import logging
import math
import os
import struct
import threading
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, cast

from .._forks import ForkSafeLock
from ..errors import StorageError, StorageUnavailable
from ..key_sources import ReadMoment
from ..storage import Capabilities, Storage, Stored
from ..storage.contract import FollowedStorage, HintingStorage, Listener, millis
from ..storage.routing import ForwardingStorage, distinct_stores, store_of
from .circuit import Emit

_log = logging.getLogger("sealedstate")

POLL_SECONDS = 1.0
# How old what was read last may be if a request goes by `KnownRecords`, in a process whose thread
# follows the store: older than it is between two polls, and younger than any `feed_staleness`.
YOUNG_SECONDS = 1.5
# How many polls hints may cause in a row. In the long run they cause one in POLL_SECONDS at most,
# because the questions to a store must not grow with the writes.
MOST_HINTS = 4
# Within how many seconds a process polls after a hint. Not all processes at the same moment.
HINT_SPREAD = 0.05
# After how many seconds a connection for hints is opened again.
LISTEN_AGAIN = 10.0
# How many pages a request reads at most, where no thread does.
REQUEST_PAGES = 2
# How many records one answer of the store brings.
PAGE = 2000
# After this time without an answer, all is read again: the store may have been restored meanwhile,
# and may have got as many writes since as were lost.
RELOAD_AFTER = 600
# How often expired records are removed from the memory.
PURGE_SECONDS = 600
# How many answers are kept where the process does not follow the store.
MOST_ANSWERS = 100_000
# Of a record in memory: its version, and its expiry or -1. Then its value.
_HEAD = struct.Struct(">qq")
# Names in a store are base64 with these letters.
_LETTERS = bytes.maketrans(b"._+/=", b"+/!!!")


def short_key(key: str) -> bytes:
    """How a key is kept in memory: for a name of `to_name` its bytes, which are fewer."""
    try:
        return binascii.a2b_base64(key.encode().translate(_LETTERS), strict_mode=True)
    except binascii.Error:
        return key.encode()


class KnownRecords(NamedTuple):
    """What a process knows: see `Feed.known`.

    `records`: by context and `short_key`, also expired ones. It counts before both moments,
    `running` and `wall`, while the wall clock is ahead of the running one by `ahead` seconds or
    more: if it was set back, what had expired by it was not read.
    """

    records: Mapping[str, Mapping[bytes, bytes]]
    running: float
    wall: float
    ahead: float

    def __repr__(self) -> str:
        return f"<KnownRecords until {self.wall}>"


class _Source:
    """What is known of the contexts of a store."""

    def __init__(self, store: Storage, contexts: Collection[str]) -> None:
        self.store, self.contexts = store, contexts
        self.records: dict[str, dict[bytes, bytes]] = {context: {} for context in contexts}
        # When the pass began that read all pages last, and the pass under way.
        self.began: ReadMoment | None = None
        self.pass_began: ReadMoment | None = None
        self.position: str | None = None
        # The records of a pass that has started over, until it has read all pages; and what this
        # process has written or read since the pass began.
        self.loading: dict[str, dict[bytes, bytes]] | None = None
        self.learned: list[tuple[str, str, Stored]] = []

    def put(self, context: str, key: str, stored: Stored) -> None:
        """Keep a record, unless a later version of it is known."""
        expires_at = -1 if stored.expires_at is None else stored.expires_at
        data, short = _HEAD.pack(stored.version, expires_at) + stored.value, short_key(key)
        for records in (self.records, self.loading):
            if records is not None:
                before = records[context].get(short)
                if before is None or _HEAD.unpack_from(before)[0] <= stored.version:
                    records[context][short] = data

    def find(self, context: str, key: str, now: int) -> Stored | None:
        """The record, if it is live at `now` (epoch milliseconds)."""
        data = self.records[context].get(short_key(key))
        if data is None:
            return None
        version, expires_at = _HEAD.unpack_from(data)
        if 0 <= expires_at <= now:
            return None
        return Stored(data[_HEAD.size :], version, None if expires_at < 0 else expires_at)


class Feed(ForwardingStorage):
    """`storage`, of which this process keeps what it learns of `contexts`.

    All operations ask the store; `look` may answer from memory. `staleness`: how old in seconds an
    answer may be; None to ask each time. `keep_for`: how old it may be if the store does not
    answer. `has_threads`: whether a thread of this process asks the store once a second, which the
    first look in a process starts; otherwise a look that finds it due. `skew`: by how many seconds
    a clock may be set back without a consequence. `clock`: epoch seconds. `running`: seconds of a
    clock that continues while the machine sleeps. `answered` is called after each answer.
    """

    def __init__(
        self,
        storage: Storage,
        contexts: Collection[str],
        *,
        staleness: float | None,
        keep_for: float,
        has_threads: bool,
        skew: float,
        clock: Callable[[], float],
        running: Callable[[], float],
        random: Callable[[int], bytes],
        emit: Emit,
        answered: Callable[[], object],
    ) -> None:
        super().__init__(storage, {})
        self._staleness, self._keep_for, self._has_threads = staleness, keep_for, has_threads
        self._skew = skew
        self._clock, self.running, self._random = clock, running, random
        self.emit, self._answered = emit, answered
        places = {context: store_of(context, storage) for context in contexts}
        self._sources = [
            _Source(store, [context for context, place in places.items() if place is store])
            for store in distinct_stores(list(places.values()))
        ]
        self._source_of = {context: each for each in self._sources for context in each.contexts}
        # Where the store is not followed: its last answers, in the order of their moments.
        self._answers: dict[tuple[str, str], tuple[Stored | None, ReadMoment]] = {}
        self._lock, self._polling, self._starting = ForkSafeLock(), ForkSafeLock(), ForkSafeLock()
        self._purged_at = running()
        self._pid, self._thread = os.getpid(), cast("threading.Thread | None", None)
        self._wake, self._is_closed = _Wake(), False
        self._is_lost = False
        # How many polls hints may cause now, as of when; and when the next poll is due.
        self._hints, self._hints_at, self._due_at = float(MOST_HINTS), running(), -math.inf
        self.known = self._collect()
        """What requests may go by that look for records that are not there, at little cost."""

    @property
    def capabilities(self) -> Capabilities:
        """Those of the store."""
        return self._default.capabilities

    def look(self, context: str, key: str) -> Stored | None:
        """The record, as old as the settings allow. Raises StorageUnavailable."""
        source = self._source_of[context]
        if self._staleness is not None:
            if self._thread is None or self._pid != os.getpid() or not self._has_threads:
                self._start()
            # The moment before the look, so that it is not that of a later pass; its age after the
            # look, because it counts until a request goes by the answer.
            began = source.began
            stored = source.find(context, key, millis(self._clock()))
            if self._age(began) <= self._staleness:
                return stored
        return self.ask(context, key)

    def ask(self, context: str, key: str) -> Stored | None:
        """The record as the store has it; as it was known last, if that may count meanwhile.

        Raises StorageUnavailable.
        """
        asked = self._moment()
        try:
            stored = self.read(context, key)
        except StorageUnavailable:
            # What was known last counts, if it is young enough.
            now, moment = millis(self._clock()), None
            if self._staleness is None:
                with self._lock:
                    stored, moment = self._answers.get((context, key), (None, None))
                if stored is not None and stored.expires_at is not None:
                    stored = stored if now < stored.expires_at else None
            else:
                source = self._source_of[context]
                moment = source.began
                stored = source.find(context, key, now)
            if not self._keep_for or self._age(moment) > self._keep_for:
                raise
            self.emit(
                "logouts-assumed",
                detail="the store does not answer; what it said of logouts up to"
                f" {self._keep_for} s ago counts",
                level=logging.WARNING,
                is_frequent=True,
            )
            return stored
        self._answered()
        if self._keep_for and self._staleness is None:
            self._keep_answer(context, key, stored, asked)
        return stored

    def is_fresh(self, margin: float = 0.0) -> bool:
        """Whether `look` asks no store now, nor in `margin` seconds."""
        if self._staleness is None:
            return False
        oldest = self._staleness if self._has_threads else POLL_SECONDS
        return all(self._age(source.began) + margin < oldest for source in self._sources)

    # --- what this process writes and reads counts at once --------------------------------------

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        is_done = super().create(context, key, value, expires_at, version)
        if is_done:
            self._learn(context, key, Stored(value, version, expires_at))
            self._announce()
        return is_done

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        is_done = super().update(context, key, value, expires_at, version, expected)
        if is_done:
            self._learn(context, key, Stored(value, version, expires_at))
            self._announce()
        return is_done

    def read(self, context: str, key: str) -> Stored | None:
        stored = super().read(context, key)
        if stored is not None:
            self._learn(context, key, stored)
        return stored

    def close(self) -> None:
        """End the thread. The store stays open."""
        self._is_closed = True
        # A child that has not started its own thread must not use what its parent's may have held.
        if self._pid == os.getpid():
            self._wake.closed.set()
            self._wake.event.set()

    def _learn(self, context: str, key: str, stored: Stored) -> None:
        if self._staleness is not None:
            with self._lock:
                source = self._source_of[context]
                source.put(context, key, stored)
                if source.pass_began is not None:
                    source.learned.append((context, key, stored))
        elif self._keep_for:
            self._keep_answer(context, key, stored, self._moment())

    def _keep_answer(
        self, context: str, key: str, stored: Stored | None, moment: ReadMoment
    ) -> None:
        answers, place = self._answers, (context, key)
        with self._lock:
            known, _ = answers.pop(place, (None, None))
            # An end may have been recorded while the store answered that there was none.
            if known is not None and (stored is None or stored.version < known.version):
                stored = known
            answers[place] = stored, moment
            while len(answers) > MOST_ANSWERS:
                del answers[next(iter(answers))]

    def _moment(self) -> ReadMoment:
        return ReadMoment(self._clock(), self.running())

    def _age(self, began: ReadMoment | None) -> float:
        if began is None:
            return math.inf
        now, running = self._clock(), self.running()
        if began.wall - began.running > now - running + self._skew:
            # The clock was ahead and was set back: what had expired by it was not read.
            return math.inf
        return now - began.at(now, running)

    # --- hints ----------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Hint to other processes that something was written here."""
        if self._staleness is None:
            return
        if self._thread is None or self._pid != os.getpid() or self._is_closed:
            self._notify()
        else:
            # In the thread, so that no request waits for it.
            self._wake.is_written = True
            self._wake.event.set()

    def _notify(self) -> None:
        for source in self._sources:
            # A hint that is lost is made up by the next poll.
            with contextlib.suppress(StorageError):
                if hasattr(source.store, "notify"):
                    cast(HintingStorage, source.store).notify()

    def work(self, is_due: bool) -> float:
        """Do what is due in the thread; return for how many seconds it may wait then."""
        wake, now = self._wake, self.running()
        if wake.is_written:
            wake.is_written = False
            self._notify()
        if is_due:
            self._due_at = now + POLL_SECONDS
            pause = self.poll()
            self._due_at = self.running() + pause
            return pause
        if wake.is_hinted:
            wake.is_hinted = False
            hints = min(self._hints + (now - self._hints_at) / POLL_SECONDS, MOST_HINTS)
            self._hints_at = now
            soon = now + HINT_SPREAD * self._random(1)[0] / 255
            if hints >= 1 and soon < self._due_at:
                hints, self._due_at = hints - 1, soon
            self._hints = hints
        return max(self._due_at - now, 0.0)

    # --- following ------------------------------------------------------------------------------

    def poll(self, most_pages: float = math.inf) -> float:
        """Read what has changed in each store; return in how many seconds to ask again.

        After `most_pages` the next call continues.
        """
        if not self._polling.acquire(blocking=False):
            return POLL_SECONDS
        began = self.running()
        try:
            for source in self._sources:
                if source.store.capabilities.changes:
                    self._read_pages(source, most_pages)
            if began >= self._purged_at + PURGE_SECONDS:
                self._purge()
            if self._is_lost:
                self.emit("feed-followed", detail="the store is followed again")
            self._is_lost = False
        except StorageError as error:
            if not self._is_lost:
                self.emit(
                    "feed-lost",
                    detail=f"the store cannot be followed, and each request asks it: {error}",
                    level=logging.WARNING,
                )
            self._is_lost = True
        finally:
            self._polling.release()
        # Not all processes at the same moment. After a long pass, the next begins at once.
        pause = POLL_SECONDS * (0.8 + 0.2 * self._random(1)[0] / 255)
        return max(pause - (self.running() - began), 0.0)

    def _read_pages(self, source: _Source, most_pages: float) -> None:
        if source.began is not None and self._age(source.began) > RELOAD_AFTER:
            source.position = source.pass_began = None
        # A pass that failed half-way continues, and what it says is as old as its begin.
        if source.pass_began is None:
            source.pass_began = self._moment()
        is_last, pages = False, 0
        while not is_last and pages < most_pages:
            pages += 1
            store = cast(FollowedStorage, source.store)
            page = store.changes(source.position, PAGE)
            self._answered()
            with self._lock:
                if page.starts_over:
                    source.loading = {context: {} for context in source.contexts}
                for context, key, stored in (*page.records, *source.learned):
                    if context in source.contexts:
                        source.put(context, key, stored)
                source.position, is_last = page.position, page.is_last
                if is_last:
                    if source.loading is not None:
                        source.records, source.loading = source.loading, None
                    source.began, source.pass_began, source.learned = source.pass_began, None, []
                    self.known = self._collect()

    def _collect(self) -> KnownRecords:
        sources = self._sources
        records = {
            context: source.records[context] for source in sources for context in source.contexts
        }
        began = [source.began for source in sources if source.began is not None]
        if self._staleness is None or len(began) < len(sources):
            return KnownRecords(records, -math.inf, -math.inf, math.inf)
        # Requests without threads poll when it is due, which `look` finds out.
        young = min(YOUNG_SECONDS if self._has_threads else POLL_SECONDS, self._staleness)
        return KnownRecords(
            records,
            min(each.running for each in began) + young,
            min(each.wall for each in began) + young,
            max(each.wall - each.running for each in began) - self._skew,
        )

    def _purge(self) -> None:
        """Forget what has expired."""
        self._purged_at, now = self.running(), millis(self._clock())
        for source in self._sources:
            for records in source.records.values():
                for key, data in list(records.items()):
                    if 0 <= _HEAD.unpack_from(data)[1] <= now:
                        with self._lock:
                            if records.get(key) is data:
                                del records[key]

    def _start(self) -> None:
        """Start this process's thread; without threads, ask the store if that is due."""
        if not self._has_threads:
            if max(self._age(source.began) for source in self._sources) >= POLL_SECONDS:
                self.poll(REQUEST_PAGES)
            return
        if self._is_closed:
            return
        with self._starting:
            if self._pid != os.getpid():
                self._thread, self._pid = None, os.getpid()
            if self._thread is None:
                # A fork may have copied the lock of the former event in use, and gevent may have
                # replaced all locks since that was made.
                wake = self._wake = _Wake()
                thread = _start_thread(_run, weakref.ref(self), wake)
                for source in self._sources:
                    if hasattr(source.store, "listen"):
                        _start_thread(_listen, weakref.ref(self), wake, source.store)
                self._thread = thread


class _Wake:
    """Why the thread of a feed wakes up before the next poll is due."""

    def __init__(self) -> None:
        self.event, self.closed = threading.Event(), threading.Event()
        self.is_hinted = self.is_written = False


def _start_thread(target: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, name="sealedstate-feed", daemon=True)
    thread.start()
    return thread


def _run(reference: weakref.ref[Feed], wake: _Wake) -> None:
    """The thread of a feed, which does not keep it alive."""
    pause = 0.0
    while True:
        is_due = not wake.event.wait(pause)
        wake.event.clear()
        feed = reference()
        if feed is None or wake.closed.is_set():
            return
        try:
            pause = feed.work(is_due)
        except Exception as error:
            # Any error: if the thread ended, each request would ask the store.
            pause = POLL_SECONDS
            feed.emit("feed-lost", detail=type(error).__name__, level=logging.WARNING)
        del feed  # until the next round, nothing here refers to it


def _listen(reference: weakref.ref[Feed], wake: _Wake, store: HintingStorage) -> None:
    """The thread that waits for hints of a store, and wakes the thread of the feed.

    All that a hint saves is the time until the next poll, so no error matters.
    """
    listener: Listener | None = None
    try:
        while not wake.closed.is_set() and reference() is not None:
            try:
                listener = listener or store.listen()
                if listener is None:
                    return
                if listener.wait(POLL_SECONDS):
                    wake.is_hinted = True
                    wake.event.set()
            except StorageUnavailable:
                if listener is not None:
                    listener.close()
                listener = None
                wake.closed.wait(LISTEN_AGAIN)
    except Exception as error:
        why = str(error) if isinstance(error, StorageError) else type(error).__name__
        _log.info("logouts are polled once a second, without hints of the store: %s", why)
    finally:
        if listener is not None:
            listener.close()

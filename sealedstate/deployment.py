"""What one application has open: store, keys, clock, random, events.

`Deployment.open` reads as the order of a start. Everything that can be wrong with the
configuration stops it there, as a ConfigurationError or an OperatorError.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeGuard

from ._cookies.codec import CookieCodec
from ._forks import are_threads_frozen
from ._stored.circuit import watch
from ._stored.feed import Feed
from ._stored.parts import StoredParts
from ._stored.revocations import Revocations
from ._stored.table import Kind, SealedTable, StoreAccess, require_lookup
from ._wire.encoding import has_lone_surrogate, token_bytes
from ._wire.record import Policy
from ._wire.token import OVERHEAD_BYTES
from .errors import (
    ConfigurationError,
    NoPrimaryKey,
    OperatorError,
    StorageError,
    escape_text,
    quote_text,
    show_value,
)
from .events import EventLog
from .hooks import HookList
from .key_sources import (
    KEK_VARIABLE,
    KeySource,
    ReloadedKeys,
    Secret,
    StaticKeys,
    clean_secret,
    from_environment,
    is_key_source,
    last_read,
    parse_keyring,
    read_secret,
    read_secret_file,
    wrapping_keyring,
)
from .keyring import Keyring
from .profiles import budget_for
from .settings import Settings
from .storage import USES, Storage, open_storage
from .storage.contract import is_storage
from .storage.requirements import StorageCheck
from .storage.urls import parse_routes

# What rotates a ring and what seals links is imported where it is used: not every application has
# them, and each import takes time at a start.
if TYPE_CHECKING:
    from .protector import Protector
    from .rotation.reports import ReportStore
    from .rotation.ring import RingStorage
    from .rotation.source import RotatingKeySource

__all__ = ["Deployment", "open_keys", "open_report_store", "open_ring_storage", "open_store"]

log = logging.getLogger("sealedstate")

BUDGETS = 256
# No cookie's Max-Age has more digits.
LONGEST_AGE = 99_999_999
# The most that a sign-in adds without parts: id, subject, times, terms, and heads of arrays.
LOGIN_BYTES = 16 + 256 + 64
# More than any header has.
MANY_BYTES = 1 << 62
# What every session with a store keeps in it.
SESSION_USES = ("spilling", "revocation")
# How often a node asks, after an answer of the store, whether its lookup key is that of the others,
# until it knows (seconds).
LOOKUP_EVERY = 60


class ClampedClock:
    """The time of `clock` (epoch seconds), which never steps back by `skew` seconds or less.

    A clock that is set back a little would make an older key the primary again. A clock that is set
    back by more was wrong before, and is followed.
    """

    def __init__(self, clock: Callable[[], float], skew: float) -> None:
        self._clock = clock
        self._skew = skew
        self._latest = clock()

    def __call__(self) -> float:
        now = self._clock()
        if now < self._latest <= now + self._skew:
            return self._latest
        # The slower of two threads may put back its own, slightly earlier moment: harmless.
        self._latest = now
        return now


class Deployment:
    """What one application has open, and the tables of its store.

    `now()`: epoch seconds. `store` is None without a storage service; `parts` and `revocations`
    are None with it. `feed`: what this process knows of logouts, if the settings let it keep that.
    """

    @classmethod
    def open(cls, settings: Settings, *, keys: KeySource | None = None) -> Self:
        """Open what `settings` name. `keys` replaces the key source that they name.

        Asks the store once within its timeout, and if it answers, whether the lookup key is that of
        the other nodes: a node with another would accept sessions that were signed out everywhere.
        Raises ConfigurationError, also for a store that
        falls short of the requirements of what sessions keep in it, and OperatorError for a ring
        that cannot be loaded or a store that cannot work where it is.
        """
        events = EventLog(settings.observers, settings.monotonic)
        store = open_store(settings)
        source = open_keys(settings, store, events) if keys is None else keys
        if keys is not None:
            _check_source(keys)
        deployment = cls(settings, events, store, source)
        if store is not None:
            deployment.require(*SESSION_USES)
            if settings.revocation == "feed":
                deployment.require("feed")
            deployment.check_lookup()
        return deployment

    def __init__(
        self, settings: Settings, events: EventLog, store: Storage | None, key_source: KeySource
    ) -> None:
        self.settings = settings
        self.events = events
        self.emit = events.emit
        self.store = store
        self.key_source = key_source
        self.keyring: Callable[[], Keyring] = key_source.keyring
        self.random = settings.random
        # Calling a method costs half of calling an object.
        self.now = ClampedClock(settings.clock, settings.skew).__call__
        self.profile = settings.budget_profile()
        self.cookies = settings.cookie_family()
        self.lifetimes = settings.lifetimes()
        self.policies = settings.policies()
        self.hooks = HookList()
        self.codec = CookieCodec(
            self.cookies.name, settings.realm, key_source, settings.random, self.cookies.variant
        )
        # Foreign cookies and other headers are mostly the same from one request to the next.
        self.budget = lru_cache(BUDGETS)(partial(budget_for, self.profile))
        self.core_bytes = lru_cache(BUDGETS)(self._core_bytes)
        # Up to how many bytes of foreign cookies parts of how many bytes always fit.
        profile = self.profile
        most_foreign = max(0, profile.header_bytes - profile.total_bytes)
        self.ample_room = (most_foreign, self.core_bytes(most_foreign, 0, True) - LOGIN_BYTES)
        # How many bytes a list of stored parts may always take; less than 0 if parts may not spill.
        self.list_room = -1
        if store is not None and Policy.COOKIE not in self.policies.values():
            # Such a list is written beside any foreign cookies and any lines of the response.
            self.list_room = self.core_bytes(0, 0, True) - LOGIN_BYTES
            self.ample_room = (MANY_BYTES, self.list_room)
        self._checks: list[StorageCheck] = []
        # When the lookup key is compared, by the running clock: see `check_lookup`.
        self._lookup_due = math.inf
        self.parts: StoredParts | None = None
        self.revocations: Revocations | None = None
        self.feed: Feed | None = None
        if store is not None:
            access = self._access = StoreAccess(
                watch(store, settings.monotonic, self.emit),
                settings.realm,
                self.random,
                self.now,
                self.keyring,
                self._log_refused_row,
                self.notice_answer,
            )
            self.parts = StoredParts(access)
            keep_for = settings.on_store_down
            if settings.revocation == "feed" or keep_for != "refuse":
                feed = self.feed = Feed(
                    access.storage,
                    USES["feed"].contexts,
                    staleness=settings.feed_staleness if settings.revocation == "feed" else None,
                    keep_for=0 if isinstance(keep_for, str) else keep_for,
                    has_threads=not are_threads_frozen(),
                    skew=settings.skew,
                    clock=self.now,
                    running=settings.monotonic,
                    random=self.random,
                    emit=self.emit,
                    answered=self.notice_answer,
                )
                access = replace(access, storage=feed)
            self.revocations = Revocations(access, settings.skew, self.feed)

    def require(self, *uses: str) -> None:
        """Check the store against further uses.

        Raises ConfigurationError, also without a store.
        """
        for use in uses:
            if use not in USES:
                raise ConfigurationError(f"storage: there is no use {quote_text(use)} of a store")
        if self.store is None:
            raise ConfigurationError(f"storage: {', '.join(uses)} needs a store; set storage")
        check = StorageCheck(self.store, uses, self.settings.accept_weak_store_for)
        check.check()
        self._checks.append(check)

    def table(self, kind: Kind, *, long_term: bool = False) -> SealedTable:
        """One context of the store. `long_term`: sealed by the keys for long-lived values.

        Raises ConfigurationError without a store.
        """
        if self.store is None:
            raise ConfigurationError(f"storage: {kind.noun} needs a store; set storage")
        keyring = (lambda: self.keyring().long_term) if long_term else None
        return SealedTable(self._access, kind, keyring)

    def lookup_secret(self) -> bytes:
        """The secret behind guessable names in the store. Raises ConfigurationError if missing."""
        return require_lookup(_current_keyring(self.key_source))

    def longest_lifetime(self) -> int:
        """How many seconds a session may live that any node seals now.

        With a ring, at least what the ring promises: this node may not know yet that sessions live
        longer, and would forget an end while a session that it ended could still be used.
        """
        return max(self.lifetimes.longest, self.keyring().keep)

    def protector(self, name: str, *, max_age: int) -> Protector:
        """Seals values into texts for links, which can be opened for `max_age` seconds.

        `name`: a constant such as ``"password-reset"``; a text opens only under the name that it
        was sealed under. Raises ConfigurationError, also for a `max_age` of more than the setting
        longest_lifetime.
        """
        from .protector import Protector

        if type(name) is not str or not name or has_lone_surrogate(name):
            raise ConfigurationError("protector: the name must be a non-empty text")
        longest = self.lifetimes.longest
        if type(max_age) is not int or not 0 < max_age <= longest:
            raise ConfigurationError(
                f"protector {name!r}: max_age must be 1 to {longest} whole seconds, because keys"
                f" are kept for longest_lifetime; got {show_value(max_age)}"
            )
        realm, random = self.settings.realm, self.random
        return Protector(name, max_age, realm, self.key_source, self.now, random)

    def check_lookup(self) -> None:
        """Compare the lookup key with that by which users were signed out everywhere.

        A store that does not answer is asked again once it does, and so is a store in which no user
        was signed out yet. Nodes of one ring have its lookup key. Raises ConfigurationError.
        """
        if self.revocations is None or _is_rotating(self.key_source):
            return
        self._lookup_due = -math.inf
        if all(check.has_answered for check in self._checks):
            self._compare_lookup()

    def notice_answer(self) -> None:
        """Check what could not be checked at the start, now that the store has answered."""
        if self.settings.monotonic() >= self._lookup_due:
            try:
                self._compare_lookup()
            except ConfigurationError as error:
                log.error("%s; the next start is refused", error)
        for check in self._checks:
            check.recheck()

    def are_keys_stale(self) -> bool:
        """Whether the keys were last read too long ago for other nodes to accept what they seal.

        Reports it as an event.
        """
        now, announce = self.now(), self.keyring().announce
        age = now - last_read(self.key_source, now)
        if age <= announce:
            return False
        self.emit(
            "keys-stale",
            detail=f"the keys were last read {int(age)} s ago, and {announce} s are allowed;"
            " sessions are opened, but not renewed",
            level=logging.WARNING,
            is_frequent=True,
        )
        return True

    def close(self) -> None:
        """Close the store, and end the threads that rotate the keys and follow the logouts."""
        if _is_rotating(self.key_source):
            self.key_source.close()
        if self.feed is not None:
            self.feed.close()
        if self.store is not None:
            self.store.close()

    def _compare_lookup(self) -> None:
        """Ask the store for the lookup key of the others. Raises ConfigurationError."""
        self._lookup_due = math.inf  # the answer to this question is no reason to ask
        try:
            is_known = self.revocations is None or self.revocations.check_lookup()
        except StorageError:
            is_known = False
        if not is_known:
            self._lookup_due = self.settings.monotonic() + LOOKUP_EVERY

    def _core_bytes(self, foreign_bytes: int, other_bytes: int, is_persistent: bool) -> int:
        """How large a core may be without its sealing, if it is the only cookie that is sent.

        `foreign_bytes`: cookies of others in the request; `other_bytes`: other Set-Cookie fields;
        `is_persistent`: whether the cookie has a Max-Age.
        """
        longest = self.cookies.chunk_name(1)
        max_age = LONGEST_AGE if is_persistent else None
        line = self.cookies.line_overhead(longest, max_age)
        budget = self.budget(foreign_bytes, 0, other_bytes, len(longest) + 1, line)
        return token_bytes(budget.core_chars) - OVERHEAD_BYTES

    def _log_refused_row(self, context: str, reason: str) -> None:
        self.emit("row-refused", reason=reason)
        log.warning("a stored value is refused: context=%s reason=%s", escape_text(context), reason)


# --- opening ------------------------------------------------------------------------------------


def open_store(settings: Settings) -> Storage | None:
    """The store that `settings.storage` names, not connected yet. Raises ConfigurationError."""
    storage = settings.storage
    if storage is None:
        return None
    if isinstance(storage, str):
        secret = _find_url(settings, storage)
        if secret is None:
            return open_storage(storage, settings.clock)
        try:
            urls = parse_routes(secret.text)  # on one line or on several
            if isinstance(urls, str) and not urls.isprintable():
                raise ConfigurationError("expected one URL, on one line, or lines of CONTEXT=URL")
            return open_storage(urls, settings.clock)
        except ConfigurationError as error:
            problem = str(error).removeprefix("storage: ")
            raise ConfigurationError(f"{secret.where}: {problem}") from None
    if isinstance(storage, Mapping):
        named = {
            context: _find_url(settings, url)
            for context, url in storage.items()
            if isinstance(url, str)
        }
        texts = {context: secret.text for context, secret in named.items() if secret is not None}
        for secret in named.values():
            if secret is not None and not secret.text.isprintable():
                raise ConfigurationError(f"{secret.where}: expected one URL, on one line")
        return open_storage({**storage, **texts}, settings.clock)
    if not is_storage(storage):
        raise ConfigurationError(
            "storage: expected a URL, a mapping of URLs, a store or None,"
            f" got {type(storage).__name__}"
        )
    return storage


def _find_url(settings: Settings, url: str) -> Secret | None:
    """The URL that ``file:PATH`` or ``env:NAME`` names; None for a URL."""
    scheme, _, rest = url.partition(":")
    if scheme == "file":
        path = Path(rest)
        text = read_secret_file("storage", path)
        secret = Secret(f"storage: the file {escape_text(path, 1000)}", text, path)
    elif scheme == "env":
        found = read_secret(settings.environ, rest)
        if found is None:
            raise ConfigurationError(
                f"storage: the environment variable {quote_text(rest)} is not set; set it to the"
                " URL of a store"
            )
        secret = found
    else:
        return None
    text = clean_secret(secret)
    if secret.path is None and text.startswith("file:"):
        return _find_url(settings, text)
    if text.startswith(("file:", "env:")):
        raise ConfigurationError(f"{secret.where}: expected the URL of a store")
    return secret._replace(text=text)


def open_keys(
    settings: Settings, store: Storage | None = None, events: EventLog | None = None
) -> KeySource:
    """The key source that `settings.keys` names; `store` for ``"store:"``.

    Raises ConfigurationError, also if no key may seal yet, or OperatorError if a ring cannot be
    loaded. Both name the variable, if a variable names the source.
    """
    place = settings.keys_place()
    try:
        source = _open_keys(settings, store, events)
        ring = _check_source(source)
        # What the application's own source gives may become active later.
        if source is not settings.keys:
            _check_active(ring, int(settings.clock()))
    except ConfigurationError as error:
        problem = str(error).removeprefix("keys: ")
        if str(error) == problem or place == "keys":
            raise
        raise ConfigurationError(f"{place}: {problem}") from None
    except OperatorError as error:
        problem = str(error).removeprefix("keys: ")
        if type(error) is not OperatorError or str(error) == problem or place == "keys":
            raise
        raise OperatorError(f"{place}: {problem}") from error
    return source


def _check_source(source: KeySource) -> Keyring:
    """The keyring of a source. Raises ConfigurationError if it gives none."""
    try:
        ring: object = _current_keyring(source)
    except OperatorError:
        raise
    except Exception as error:
        # The chained error would print what the source says as it is.
        raise ConfigurationError(
            f"keys: the key source failed ({type(error).__name__}: {escape_text(error)}); it must"
            " give a Keyring"
        ) from None
    if not isinstance(ring, Keyring):
        raise ConfigurationError(
            f"keys: the key source must give a Keyring, got {type(ring).__name__}"
        )
    return ring


def _check_active(ring: Keyring, now: int) -> None:
    try:
        ring.primary(now)
    except NoPrimaryKey:
        raise ConfigurationError(
            "keys: no key is active; check the activation and expiry dates, and the clock of this"
            f" machine, which says {_show_time(now)}"
        ) from None


def _show_time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"


def _open_keys(settings: Settings, store: Storage | None, events: EventLog | None) -> KeySource:
    keys, skew, announce = settings.resolve_keys(), settings.skew, settings.announce_seconds()
    if is_key_source(keys):
        return keys
    scheme, _, rest = keys.partition(":") if isinstance(keys, str) else ("list", "", "")
    is_ring = scheme == "store"
    if scheme == "file":
        from .rotation.ring_file import is_ring_file

        is_ring = is_ring_file(Path(rest))
    if scheme == "store":
        # A store that forgets the ring would be given a new ring, and all sessions would end.
        StorageCheck(_ring_store(store), ("ring",), settings.accept_weak_store_for).check()
    events = events or EventLog(settings.observers)
    source: KeySource
    if is_ring:
        from .rotation.ring_file import RingFile
        from .rotation.source import RotatingKeySource

        ring_storage = open_ring_storage(settings, store)
        source = RotatingKeySource(
            ring_storage,
            settings.rotation(),
            events,
            open_report_store(settings, store),
            scheme == "store",
        )
        if settings.rotate_in_process and are_threads_frozen():
            raise ConfigurationError(
                "keys: this uWSGI runs threads only while it answers a request, so no thread could"
                " rotate the ring; set its enable-threads, or set rotate_in_process to false, and"
                " let another node or `sealedstate keys rotate` rotate the ring"
            )
        if settings.rotate_in_process and isinstance(ring_storage, RingFile):
            try:
                ring_storage.check_writable()
            except OperatorError as error:
                raise ConfigurationError(
                    f"keys: {error}; or set rotate_in_process to false, and let another node or"
                    " `sealedstate keys rotate` rotate the ring"
                ) from None
    elif scheme == "env":
        source = StaticKeys(from_environment(settings.environ, rest, skew, announce))
    elif scheme == "file":
        source = ReloadedKeys(
            Path(rest),
            skew,
            announce,
            settings.reload_every,
            settings.monotonic,
            settings.clock,
            events.emit,
        )
    elif isinstance(keys, str) and not keys.strip():
        raise ConfigurationError("keys: must not be empty; `sealedstate keys generate` prints one")
    else:
        texts = [keys] if isinstance(keys, str) else keys
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            raise ConfigurationError(
                "keys: must be text, a list of texts, or an object with keyring()"
            )
        source = StaticKeys(parse_keyring(texts, skew, announce))
    return source


def _current_keyring(source: KeySource) -> Keyring:
    """The ring in force. At a start, which unlike a request must leave no thread to a fork."""
    return source.ring.keyring() if _is_rotating(source) else source.keyring()


def _is_rotating(source: KeySource) -> TypeGuard[RotatingKeySource]:
    """Whether a source has a ring. Its module is imported already if so, and only then."""
    rotation = sys.modules.get(f"{__package__}.rotation.source")
    return rotation is not None and isinstance(source, rotation.RotatingKeySource)


def open_ring_storage(
    settings: Settings, store: Storage | None = None, *, takes_clear: bool = False
) -> RingStorage:
    """Where the ring of ``keys="file:PATH"`` or ``"store:"`` is kept; nothing is read yet.

    `takes_clear`: whether a plaintext file is read although a key-encryption key is set. Raises
    ConfigurationError.
    """
    scheme, _, rest = str(settings.resolve_keys()).partition(":")
    wrapping = wrapping_keyring(settings.environ, settings.skew)
    if scheme == "file" and rest:
        from .rotation.ring_file import RingFile

        return RingFile(
            Path(rest), wrapping, settings.random, settings.clock, takes_clear=takes_clear
        )
    if scheme == "store" and not rest:
        from .rotation.ring_store import StoredRing

        return StoredRing(
            _ring_store(store), settings.realm, wrapping, settings.random, settings.clock
        )
    raise ConfigurationError('keys: a ring that rotates is in "file:PATH" or "store:"')


def open_report_store(settings: Settings, store: Storage | None = None) -> ReportStore:
    """Where the processes that use that ring report. Raises ConfigurationError."""
    from .rotation.reports import FileReports, StoredReports

    scheme, _, rest = str(settings.resolve_keys()).partition(":")
    if scheme == "file":
        return FileReports(Path(f"{rest}.nodes"))
    wrapping = from_environment(settings.environ, KEK_VARIABLE, settings.skew)
    access = StoreAccess(
        _ring_store(store), settings.realm, settings.random, settings.clock, lambda: wrapping
    )
    return StoredReports(access)


def _ring_store(store: Storage | None) -> Storage:
    if store is None:
        raise ConfigurationError('keys: "store:" needs a store; set storage')
    return store

"""One configuration object; from keywords, a TOML file or the environment.

Knows every setting, its default and what contradicts what. Does not know requests. Everything is
checked when the object is made, so that a mistake stops the start and not a visitor.
"""

from __future__ import annotations

import difflib
import os
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeAlias

from ._cookies.header import CookieFamily
from ._cookies.placement import policies_of
from ._key_opening import KeySources
from ._wire.encoding import has_lone_surrogate
from ._wire.record import Lifetimes, Policy
from .errors import ConfigurationError, NoPrimaryKey
from .events import EventLog, Observer
from .key_sources import KeySource
from .keyring import DEFAULT_SKEW
from .legacy import LegacyReader
from .profiles import PROFILES, Profile
from .rotation import DEFAULT_RELOAD_EVERY, DEFAULT_ROTATE_EVERY, Schedule, minimum_announce
from .rotation.ring_store import KEK_VARIABLE
from .rotation.source import RotationConfig
from .storage import USES, Storage, open_storage
from .storage.contract import Clock

MergeRule: TypeAlias = Callable[[object, object, object], object]
"""(value as this request found it or None, value stored by another, our value) -> what to keep."""

ENVIRONMENT_PREFIX = "SEALEDSTATE_"
# RFC 6265bis: browsers cap a cookie's life at 400 days.
MAX_LIFETIME = 400 * 86400


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How sessions are sealed, kept and sent. Times are in seconds, sizes in bytes.

    keys: ``"file:PATH"`` (a ring that `sealedstate keys init` made, or keys one a line),
        ``"store:"`` (a ring in `storage`), ``"env:"``, ``"env:NAME"``, a key, a list of keys of
        which the first seals, or a key source.
    storage: a URL such as ``"sqlite:PATH"``, a table of URLs by context (``"*"``: the others), a
        store, or None: then nothing can spill, and a logout can't be enforced against a captured
        cookie.
    tolerate: uses for which the store may fall short of what they need, as ``["revocation"]`` with
        ``"memory:"``; else a store that does stops the start.
    realm: what tells this application's tokens from those of another with the same keys.
    profile: ``"tight"``, ``"portable"``, ``"standard"``, ``"roomy"``, or a Profile.
    idle_lifetime, absolute_lifetime: a session ends so long after its last seal, and after its
        sign-in; refresh_after: how old a seal gets before a read renews it (idle_lifetime / 10).
    parts: policies by part name, ``"cookie"``, ``"server"`` or ``"auto"``, the default.
    spill_order: which ``auto`` parts leave the cookies first.
    merge: rules by part name for a part that two requests wrote at once; the last writer wins else.
    cookie_name: by default ``__Host-s``, or ``s`` where that prefix is not allowed.
    secure: False for plain http on localhost. persistent: the cookie outlives the browser window.
    legacy: a LegacyReader for sessions that Flask or Starlette signed.
    skew: how far the clocks of nodes and what they seal may differ.
    rotate_every, announce, reload_every: of a ring in a file or in the store: from one key to the
        next, how long one is known before it seals, and how often a process looks for a new ring.
    rotate_here: whether a thread of each process rotates the ring; else `sealedstate keys rotate`.
    observers: functions that are called with each Event.
    """

    keys: str | Sequence[str] | KeySource = field(default="env:", repr=False)
    storage: str | Mapping[str, str] | Storage | None = field(default=None, repr=False)
    tolerate: Sequence[str] = ()
    realm: str = "default"
    profile: str | Profile = "portable"
    idle_lifetime: int = 2 * 3600
    absolute_lifetime: int = 12 * 3600
    refresh_after: int | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    spill_order: Sequence[str] = ()
    merge: Mapping[str, MergeRule] = field(default_factory=dict)
    cookie_name: str | None = None
    cookie_path: str = "/"
    cookie_domain: str | None = None
    secure: bool = True
    same_site: str = "Lax"
    partitioned: bool = False
    persistent: bool = False
    legacy: LegacyReader | None = field(default=None, repr=False)
    skew: int = DEFAULT_SKEW
    rotate_every: int = DEFAULT_ROTATE_EVERY
    announce: int | None = None
    reload_every: int = DEFAULT_RELOAD_EVERY
    rotate_here: bool = True
    observers: Sequence[Observer] = field(default=(), repr=False)
    ticks: Callable[[], float] = field(default=time.monotonic, repr=False)
    clock: Clock = field(default=time.time, repr=False)
    random: Callable[[int], bytes] = field(default=os.urandom, repr=False)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    journal: EventLog = field(init=False, repr=False)
    key_source: KeySource = field(init=False, repr=False)
    store: Storage | None = field(init=False, repr=False)
    carried: Profile = field(init=False, repr=False)
    cookies: CookieFamily = field(init=False, repr=False)
    lifetimes: Lifetimes = field(init=False, repr=False)
    policies: Mapping[str, Policy] = field(init=False, repr=False)

    def __new__(cls, **given: object) -> Self:
        # Before the dataclass complains in general, say which setting is nearest.
        _refuse_unknown(given, {item.name for item in fields(cls) if item.init})
        return super().__new__(cls)

    def __post_init__(self) -> None:
        self._check_types()
        derived: dict[str, Callable[[], object]] = {
            "journal": lambda: EventLog(self.observers),
            "store": self._opened_storage,
            "carried": self._found_profile,
            "cookies": self._cookie_family,
            "lifetimes": self._checked_lifetimes,
            "policies": self._checked_policies,
            "key_source": self._opened_keys,
        }
        for name, make in derived.items():
            object.__setattr__(self, name, make())  # computed once; the dataclass is frozen

    @classmethod
    def from_toml(cls, path: str | Path, **keywords: Any) -> Self:
        """Settings from the table [sealedstate] of a TOML file, or from the file's top level.

        `keywords` go before the file. `profile` and `legacy` may be tables. Raises
        ConfigurationError.
        """
        try:
            document = tomllib.loads(Path(path).read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"{path}: {error}") from None
        values = document.get("sealedstate", document)
        if not isinstance(values, dict):
            raise ConfigurationError(f"{path}: sealedstate is a table")
        return cls(**_with_tables(values) | keywords)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **keywords: Any) -> Self:
        """Settings from variables such as SEALEDSTATE_IDLE_LIFETIME. Raises ConfigurationError.

        SEALEDSTATE_KEYS holds the keys themselves, or ``file:PATH``. Lists are separated by blanks,
        and SEALEDSTATE_PARTS reads like ``cart=server flash=cookie``.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {
            name.removeprefix(ENVIRONMENT_PREFIX).lower(): text
            for name, text in environ.items()
            if name.startswith(ENVIRONMENT_PREFIX) and name != KEK_VARIABLE
        }
        _refuse_unknown(values, _FROM_TEXT.keys(), ENVIRONMENT_PREFIX)
        read: dict[str, Any] = {name: _from_text(name, text) for name, text in values.items()}
        read |= {"environ": environ} | keywords
        return cls(**read)

    # --- checks, in the order of the settings ---------------------------------------------------

    def _check_types(self) -> None:
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise ConfigurationError(f"{name}: {wanted}, not {type(value).__name__}")
        if isinstance(self.spill_order, str) or not all(
            isinstance(name, str) for name in self.spill_order
        ):
            raise ConfigurationError("spill_order: a list of names")
        self._check_tolerated()
        if not all(callable(rule) for rule in self.merge.values()):
            raise ConfigurationError("merge: a function for each name")
        if self.legacy is not None and self.legacy.name == self.cookie_name:
            raise ConfigurationError("cookie_name: not the name of the old cookie")
        if has_lone_surrogate(self.realm):
            raise ConfigurationError("realm: text without lone surrogates")
        if self.skew < 0:
            raise ConfigurationError("skew: not negative")

    def _check_tolerated(self) -> None:
        if isinstance(self.tolerate, str):
            raise ConfigurationError("tolerate: a list of uses")
        for title in self.tolerate:
            if not isinstance(title, str) or title not in USES:
                near = _nearest(str(title), USES)
                raise ConfigurationError(f"tolerate: no use of a store is called {title!r}{near}")

    def _opened_keys(self) -> KeySource:
        source = self.key_sources().open(self.keys)
        if source is not self.keys:
            try:
                source.keyring().primary(int(self.clock()))
            except NoPrimaryKey:
                raise ConfigurationError("keys: none of them may seal yet") from None
        return source

    def key_sources(self) -> KeySources:
        """What opens the source of `keys`, and finds the place of a ring. For the command line."""
        announce = self.announce or minimum_announce(self.reload_every, self.skew)
        # Stored parts and revocations are kept so long after the last seal.
        lifetime = self.absolute_lifetime + self.skew
        tending = RotationConfig(
            Schedule(self.rotate_every, announce, lifetime, self.skew),
            self.reload_every,
            lifetime,
            self.skew,
            self.rotate_here,
            self.clock,
            self.ticks,
            self.random,
        )
        return KeySources(
            self.environ,
            self.skew,
            self.realm,
            self.store,
            tending,
            self.journal,
            self.tolerate,
        )

    def _opened_storage(self) -> Storage | None:
        if isinstance(self.storage, str) or type(self.storage) is dict:
            return open_storage(self.storage, self.clock)
        if self.storage is not None and not isinstance(self.storage, Storage):
            raise ConfigurationError("storage: a URL, an object with the storage contract, or None")
        return self.storage

    def _found_profile(self) -> Profile:
        if isinstance(self.profile, Profile):
            return self.profile
        if self.profile not in PROFILES:
            near = _nearest(self.profile, PROFILES)
            raise ConfigurationError(f"profile: there is no {self.profile!r}{near}")
        return PROFILES[self.profile]

    def _cookie_family(self) -> CookieFamily:
        prefixed = self.secure and self.cookie_path == "/" and not self.cookie_domain
        name = self.cookie_name or ("__Host-s" if prefixed else "s")
        return CookieFamily(
            name,
            self.secure,
            self.same_site,
            self.cookie_path,
            self.cookie_domain,
            self.partitioned,
        )

    def _checked_lifetimes(self) -> Lifetimes:
        refresh = self.idle_lifetime // 10 if self.refresh_after is None else self.refresh_after
        if not 0 < self.idle_lifetime <= self.absolute_lifetime <= MAX_LIFETIME:
            raise ConfigurationError(
                "lifetimes: 0 < idle_lifetime <= absolute_lifetime <= 400 days, in seconds"
            )
        if not 0 <= refresh < self.idle_lifetime:
            raise ConfigurationError("refresh_after: less than idle_lifetime, or nobody stays in")
        return Lifetimes(self.idle_lifetime, self.absolute_lifetime, refresh)

    def _checked_policies(self) -> dict[str, Policy]:
        try:
            policies = policies_of(self.parts)
        except ValueError:
            raise ConfigurationError("parts: each policy is 'cookie', 'server' or 'auto'") from None
        served = [name for name, policy in policies.items() if policy is Policy.SERVER]
        if served and self.storage is None:
            raise ConfigurationError(
                f"parts: {', '.join(served)} must live in the store, and storage is not set"
            )
        return policies


_KINDS: dict[str, tuple[type, ...]] = {
    "tolerate": (Sequence,),
    "realm": (str,),
    "profile": (str, Profile),
    "idle_lifetime": (int,),
    "absolute_lifetime": (int,),
    "refresh_after": (int, type(None)),
    "parts": (Mapping,),
    "spill_order": (Sequence,),
    "merge": (Mapping,),
    "cookie_name": (str, type(None)),
    "cookie_path": (str,),
    "cookie_domain": (str, type(None)),
    "secure": (bool,),
    "same_site": (str,),
    "partitioned": (bool,),
    "persistent": (bool,),
    "legacy": (LegacyReader, type(None)),
    "skew": (int,),
    "rotate_every": (int,),
    "announce": (int, type(None)),
    "reload_every": (int,),
    "rotate_here": (bool,),
    "observers": (Sequence,),
}


def environment() -> Mapping[str, str]:
    """The process's environment, for the command line."""
    return os.environ


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _yes_or_no(text: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    return known[text.strip().lower()]


def _keys_of(text: str) -> str | list[str]:
    return text if text.startswith(("env:", "file:", "store:")) else _words(text)


_FROM_TEXT: dict[str, Callable[[str], object]] = {
    "keys": _keys_of,
    "storage": str,
    "tolerate": _words,
    "realm": str,
    "profile": str,
    "idle_lifetime": int,
    "absolute_lifetime": int,
    "refresh_after": int,
    "parts": lambda text: dict(word.split("=", 1) for word in _words(text)),
    "spill_order": _words,
    "cookie_name": str,
    "cookie_path": str,
    "cookie_domain": str,
    "secure": _yes_or_no,
    "same_site": str,
    "partitioned": _yes_or_no,
    "persistent": _yes_or_no,
    "skew": int,
    "rotate_every": int,
    "announce": int,
    "reload_every": int,
    "rotate_here": _yes_or_no,
}


def _from_text(name: str, text: str) -> object:
    try:
        return _FROM_TEXT[name](text)
    except (ValueError, KeyError):
        # The text may be a secret in the wrong variable: it is not repeated.
        raise ConfigurationError(
            f"{ENVIRONMENT_PREFIX}{name.upper()}: not what this setting takes"
        ) from None


def _with_tables(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a TOML table, with [profile] and [legacy] made into what they describe."""
    tables: dict[str, type] = {"profile": Profile, "legacy": LegacyReader}
    made = dict(values)
    for name, kind in tables.items():
        table = values.get(name)
        if isinstance(table, dict):
            made[name] = _made(name, kind, {"name": "custom"} | table if kind is Profile else table)
    return made


def _made(name: str, kind: Any, table: dict[str, Any]) -> Any:
    _refuse_unknown(table, {item.name for item in fields(kind)}, f"{name}.")
    try:
        if isinstance(table.get("until"), str):
            table = table | {"until": datetime.fromisoformat(table["until"])}
        return kind(**table)
    except ConfigurationError:
        raise
    except (TypeError, ValueError):
        wanted = ", ".join(item.name for item in fields(kind))
        raise ConfigurationError(f"{name}: a table with {wanted}") from None


def _refuse_unknown(given: Mapping[str, object], known: Any, prefix: str = "") -> None:
    for name in given:
        if name not in known:
            shown = f"{prefix}{name.upper() if prefix == ENVIRONMENT_PREFIX else name}"
            raise ConfigurationError(
                f"there is no setting {shown!r}{_nearest(name, known, prefix)}"
            )


def _nearest(name: str, known: Any, prefix: str = "") -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    if not near:
        return f"; there are {', '.join(sorted(known))}"
    right = f"{prefix}{near[0].upper()}" if prefix == ENVIRONMENT_PREFIX else near[0]
    return f"; did you mean {right!r}?"

"""The settings of one application, from keywords, a TOML file or the environment.

Settings are frozen values. Making them checks every value that can be checked without
I/O, so that a mistake stops the start and no visitor meets it. `Deployment.open` opens
what they name: the store and the keys.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias, TypeVar

from ._cookies.header import CookieFamily
from ._wire.record import Lifetimes, Policy, check_name
from .errors import (
    ConfigurationError,
    UnsupportedValue,
    contains_key,
    escape_message,
    escape_text,
    quote_text,
    show_value,
)
from .events import Observer
from .key_sources import (
    FILE_SUFFIX,
    KEK_VARIABLE,
    KeySource,
    clean_value,
    is_key_source,
    read_secret_file,
    secret_path,
)
from .keyring import DEFAULT_SKEW, MAX_TIME
from .profiles import PROFILES, Profile
from .rotation.ring import DEFAULT_RELOAD_EVERY, DEFAULT_ROTATE_EVERY, Schedule, minimum_announce
from .storage import USES, Storage
from .storage.contract import Clock, is_storage

# What few settings need is imported where it is used, because each import takes time at a start.
if TYPE_CHECKING:
    from .legacy import LegacyReader
    from .rotation.source import RotationConfig

__all__ = ["ENVIRONMENT_PREFIX", "MergeRule", "Settings", "process_environment"]

MergeRule: TypeAlias = Callable[[object, object, object], object]
"""(value as this request loaded it or None, value that another request stored, value that this
request wants) -> value to store."""

ENVIRONMENT_PREFIX = "SEALEDSTATE_"
MAX_FORMER = 4
# For how long a logout may be unknown to a node.
MAX_STALENESS = 86400
# RFC 6265bis, section 5.5: browsers cap a cookie's life at 400 days.
MAX_LIFETIME = 400 * 86400
# More is a typing error.
MAX_SECONDS = 100 * 365 * 86400
# Settings that tests replace, which no error suggests.
_FOR_TESTS = frozenset({"clock", "environ", "monotonic", "random"})
# What a variable may contain instead of keys, and the file that it names.
_SOURCES = ("file:", "store:")
# Variables of which NAME_FILE may name a file with the value.
_SECRETS = ("KEYS", "STORAGE", "KEK")
# Kubernetes and Docker set these in each container for a service that is called sealedstate.
_SERVICE_LINK = re.compile(
    r"SEALEDSTATE_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?"
    r"|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_SERVICE_ADDRESS = re.compile(r"SEALEDSTATE_(?:\w+_)?PORT")

# Linux's monotonic clock stops while the machine sleeps; this clock counts that time, too.
running_clock: Callable[[], float] = (
    functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic
)

# How long a bound cookie may open its session.
MIN_BOUND, MAX_BOUND = 5, 3600
_PATH = re.compile(r"/[A-Za-z0-9._~/-]{0,127}[A-Za-z0-9._~-]", re.ASCII)

# A scheme, a host in small letters and perhaps a port (RFC 6454, 6.2).
_ORIGIN = re.compile(r"https?://[a-z0-9.\[\]:_-]*[a-z0-9\]]", re.ASCII)

T = TypeVar("T")


def system_clock() -> float:
    """The default clock. Looked up at each call: a test may replace `time.time` at any moment."""
    return time.time()


def _suggest_settings(cls: type[T]) -> type[T]:
    """Let the constructor suggest a setting for an unknown one; its signature stays."""
    make = cls.__init__

    @functools.wraps(make)
    def check_names(self: T, **given: object) -> None:
        refuse_unknown(given, {item.name for item in fields(cls)})  # type: ignore[arg-type]
        make(self, **given)

    cls.__init__ = check_names  # type: ignore[method-assign,assignment]
    return cls


@_suggest_settings
@dataclass(frozen=True, kw_only=True)
class Settings:
    """How sessions are sealed, kept and sent. Times are in seconds, sizes in bytes.

    keys: ``"file:PATH"`` (a ring that `sealedstate keys init` created, or keys, one a line, which
        are read again when the file changes), ``"store:"`` (a ring in `storage`), ``"env:NAME"``
        (what that variable contains: keys, ``file:PATH`` or ``store:``; by default
        SEALEDSTATE_KEYS), a key, a list of keys of which the first seals, or a key source.
    storage: a URL such as ``"sqlite:PATH"``, ``"file:PATH"`` or ``"env:NAME"`` (a file or a
        variable that contains the URL), a mapping of contexts to any of these (``"*"``: all
        others), a store, or None. Without a store no part can spill, and a logout cannot be
        enforced against a stolen cookie.
    accept_weak_store_for: uses for which the store may fall short of the requirements, such as
        ``["revocation"]`` for ``"memory:"``. Otherwise such a store stops the start.
    revocation: ``"each request"`` that opens a session asks the store whether it was logged out, or
        ``"feed"``: each process keeps all logouts in its memory and asks the store once a second
        what was added.
    feed_staleness: how old may be what a process knows of logouts by its feed; a request that finds
        it older asks the store.
    on_store_down: ``"refuse"``, or for how many seconds what a process last knew of logouts counts
        if the store does not answer; after that no session opens.
    realm: separates the tokens of this application from those of others with the same keys.
    profile: ``"tight"``, ``"portable"``, ``"standard"``, ``"roomy"``, or a Profile.
    idle_lifetime: a session ends this long after its last seal.
    absolute_lifetime: a session ends this long after its sign-in.
    longest_lifetime: the longest lifetime that `Session.limit` may give a session, and the longest
        `max_age` of a protector; by default absolute_lifetime. Keys and revocations are kept as
        long.
    refresh_after: age of a seal at which a read renews it; by default idle_lifetime / 10.
    part_policies: ``"cookie"``, ``"server"`` or ``"auto"`` (the default) by part name;
        ``"browser"`` (experimental): Web Storage, see `sealedstate_wsgi.browser`.
    spill_order: the ``auto`` parts that leave the cookies first.
    may_drop: parts that are left out, first to last, if the cookies have no room and they may not
        spill; ``"name*"``: all that begin so. Assigning any other part then raises SessionTooLarge.
    merge: rules by part name for a part that two requests change at once; by default the last write
        counts.
    cookie_name: by default ``__Host-Http-s``, or ``s`` where that prefix is not allowed.
    cookie_path, cookie_domain, same_site, partitioned: attributes of the cookies. Another path,
        domain or partitioning makes another cookie: the cookies of before open nothing any more.
    former_cookies: cookies of before that browsers may still send, to be deleted: tables with the
        `name`, `path`, `domain` or `partitioned` of before, those that differ from the current.
        Without `name` it is cookie_name or, if that is not set, the default for these attributes.
    binding_path: under which path browsers register the keys of device-bound sessions, and renew
        their bound cookies, such as ``"/session-binding"``; None: no session is bound.
        Experimental.
    bound_lifetime: how long a bound cookie opens its session; the browser renews it earlier, by a
        fifth.
    on_unbound: what happens to a bound session that comes without its bound cookie. ``"refuse"``:
        it does not open, and its cookie is kept until it expires or a user signs in.
        ``"sign-in"``: it does not open, and its cookie is replaced like an expired one.
        ``"report"``: it opens, and an event reports it.
    joined_cookie_lines: whether a comma may separate two cookies, because WSGI servers join the
        lines of one request with it. A cookie that is found only in this way counts only if no
        other opens.
    secure: False only for plain http on localhost.
    origins: the application's origins, such as ``["https://app.example.org"]``. With them, a
        request with another Origin header counts as from another site if its browser sends no
        Sec-Fetch-Site.
    persistent: the cookie outlives the browser's window.
    legacy: a LegacyReader for sessions that a framework signed, or has in its old store.
    subject_key: the part with which an application signs in, such as ``"_user_id"``: assigning it
        is a sign-in of that user, and a session without it belongs to no user.
    convert: asked for another value in place of one whose type a session does not carry;
        `sealedstate.plain` writes subclasses as their base types.
    skew: tolerated clock difference between nodes.
    announce: by how much the keys of a node may lag behind those of other nodes: the longest
        roll-out, and how long the ring publishes a key before its first use.
    rotate_every, reload_every: for a ring in a file or in the store: time from one key to the next,
        and time between two looks for a new ring, or for other keys in a file.
    rotate_in_process: whether a thread of each process rotates the ring; otherwise
        `sealedstate keys rotate` must.
    observers: functions that are called with each Event.
    monotonic, clock, random, environ: seconds that never go back and continue while the machine
        sleeps, epoch seconds, a function from a number of bytes to random bytes, and the
        environment variables; replaceable for tests.

    Raises ConfigurationError, which names the setting and never a secret.
    """

    keys: str | Sequence[str] | KeySource = field(default="env:", repr=False)
    storage: str | Mapping[str, str] | Storage | None = field(default=None, repr=False)
    accept_weak_store_for: Sequence[str] = ()
    revocation: str = "each request"
    feed_staleness: int = 2
    on_store_down: str | int = "refuse"
    realm: str = "default"
    profile: str | Profile = "portable"
    idle_lifetime: int = 2 * 3600
    absolute_lifetime: int = 12 * 3600
    longest_lifetime: int | None = None
    refresh_after: int | None = None
    part_policies: Mapping[str, str] = field(default_factory=dict)
    spill_order: Sequence[str] = ()
    may_drop: Sequence[str] = ()
    merge: Mapping[str, MergeRule] = field(default_factory=dict)
    cookie_name: str | None = None
    cookie_path: str = "/"
    cookie_domain: str | None = None
    secure: bool = True
    same_site: str = "Lax"
    partitioned: bool = False
    former_cookies: Sequence[Mapping[str, Any]] = ()
    binding_path: str | None = None
    bound_lifetime: int = 300
    on_unbound: str = "refuse"
    joined_cookie_lines: bool = True
    origins: Sequence[str] = ()
    persistent: bool = False
    legacy: LegacyReader | None = field(default=None, repr=False)
    subject_key: str | None = None
    convert: Callable[[object], object] | None = field(default=None, repr=False)
    skew: int = DEFAULT_SKEW
    rotate_every: int = DEFAULT_ROTATE_EVERY
    announce: int | None = None
    reload_every: int = DEFAULT_RELOAD_EVERY
    rotate_in_process: bool = True
    observers: Sequence[Observer] = field(default=(), repr=False)
    monotonic: Callable[[], float] = field(default=running_clock, repr=False)
    clock: Clock = field(default=system_clock, repr=False)
    random: Callable[[int], bytes] = field(default=os.urandom, repr=False)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def __post_init__(self) -> None:
        for name, reader in _READERS.items():
            value, kinds = getattr(self, name), reader.kinds
            # A bool is an int to Python, but True seconds are a mistake.
            is_stray_flag = isinstance(value, bool) and not {bool, object} & set(kinds)
            if is_stray_flag or not isinstance(value, kinds):
                expected = " or ".join(kind.__name__ for kind in kinds)
                raise ConfigurationError(f"{name}: expected {expected}, got {type(value).__name__}")
        if self.legacy is not None:
            from .legacy import LegacyReader

            if not isinstance(self.legacy, LegacyReader):
                found = type(self.legacy).__name__
                raise ConfigurationError(f"legacy: expected LegacyReader or NoneType, got {found}")
        self._check_sources()
        self._check_texts()
        self._check_values()
        self.budget_profile()
        self.former_families()
        self.lifetimes()
        self.policies()

    @classmethod
    def from_toml(cls, path: str | Path, **keywords: Any) -> Self:
        """Settings from the table [sealedstate] of a TOML file, or from the file's top level.

        `keywords` take precedence over the file. `profile` and `legacy` may be tables. Raises
        ConfigurationError.
        """
        import tomllib

        from .legacy import LegacyReader

        shown = escape_text(path, 1000)
        try:
            document = tomllib.loads(Path(path).read_text("utf-8-sig"))
        except (OSError, ValueError) as error:  # no UTF-8, no TOML, a number of too many digits
            problem = getattr(error, "strerror", None) or error
            raise ConfigurationError(f"{shown}: {problem}") from None
        values = document.get("sealedstate", document)
        if not isinstance(values, dict):
            raise ConfigurationError(f"{shown}: sealedstate must be a table")
        try:
            in_code_only = {item.name for item in fields(cls)} - _TOML_NAMES
            for name in values:
                if name in in_code_only:
                    raise ConfigurationError(
                        f"{name}: a file cannot contain this setting; pass it as a keyword"
                    )
            refuse_unknown(values, _TOML_NAMES)
            tables: dict[str, type] = {"profile": Profile, "legacy": LegacyReader}
            for name, kind in tables.items():
                if isinstance(values.get(name), dict):
                    values = values | {name: _from_table(name, kind, values[name])}
            return cls(**values | keywords)
        except ConfigurationError as error:
            if str(error).partition(":")[0] in keywords:
                raise
            raise ConfigurationError(f"{shown}: {error}") from None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **keywords: Any) -> Self:
        """Settings from variables such as SEALEDSTATE_IDLE_LIFETIME.

        SEALEDSTATE_KEYS holds the keys themselves, ``file:PATH`` or ``store:``. Lists are separated
        by blanks or commas, and SEALEDSTATE_PART_POLICIES reads like ``cart=server flash=cookie``.
        Blanks and line ends around a value do not count. SEALEDSTATE_KEYS_FILE,
        SEALEDSTATE_STORAGE_FILE and SEALEDSTATE_KEK_FILE name files that contain the values.
        `keywords` take precedence. Raises ConfigurationError, which names the variable.
        """
        environ = os.environ if environ is None else environ
        return cls._from_values(_read_variables(environ), keywords)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        prefix: str = ENVIRONMENT_PREFIX,
        environ: Mapping[str, str] | None = None,
        others: Collection[str] = (),
        **defaults: Any,
    ) -> Self:
        """Settings from the configuration of a framework, such as SEALEDSTATE_STORAGE of Flask.

        Names count that begin with `prefix`, in capitals or small letters as it is. Texts are read
        as in `from_env`. Variables of `environ` are used for what `config` does not name, and
        `defaults` for what neither does. `others`: names that the caller reads itself, which an
        error may suggest. Raises ConfigurationError, which names what is wrong as it is in
        `config`.
        """
        variables = _read_variables(os.environ if environ is None else environ, others)
        values: dict[str, Any] = {}
        names = {f"{prefix}{cased(name, prefix)}": name for name in _READERS}
        for key, value in config.items():
            if not key.startswith(prefix):
                continue
            if key not in names:
                refuse_unknown([key], {*names, *others} - {key})
            name = names[key]
            from_text = _READERS[name].from_text
            try:
                if isinstance(value, str) and from_text is not None:
                    value = from_text(clean_value(key, value))
            except ConfigurationError as error:
                problem = str(error).removeprefix(f"{key}: ")
                raise ConfigurationError(f"{key}: {problem}") from None
            values[name] = value
        try:
            return cls._from_values({**defaults, **variables}, values)
        except ConfigurationError as error:
            name, colon, problem = str(error).partition(":")
            if not colon or name not in values:
                raise
            raise ConfigurationError(f"{prefix}{cased(name, prefix)}:{problem}") from None

    @classmethod
    def _from_values(cls, values: dict[str, Any], keywords: Mapping[str, Any]) -> Self:
        """Settings from the environment's values; an error of one names its variable."""
        try:
            return cls(**values | dict(keywords))
        except ConfigurationError as error:
            name, colon, problem = str(error).partition(":")
            if not colon or name not in values or name in keywords:
                raise
            raise ConfigurationError(f"{ENVIRONMENT_PREFIX}{name.upper()}:{problem}") from None

    def __repr__(self) -> str:
        # A mistake may have put a secret into any setting, and a constructor that raised may have
        # left out some.
        shown = ", ".join(
            f"{item.name}={getattr(self, item.name)!r}"
            for item in fields(self)
            if item.repr and hasattr(self, item.name)
        )
        return escape_message(f"{type(self).__name__}({shown})")

    # --- what follows from the values -----------------------------------------------------------

    def resolve_keys(self) -> str | Sequence[str] | KeySource:
        """`keys`, or what the variable names that ``"env:NAME"`` means.

        Either ``"env:NAME"`` with a name, or another source than a variable. Raises
        ConfigurationError.
        """
        return self._find_keys()[1]

    def keys_place(self) -> str:
        """The setting or the variable that names the key source, for errors."""
        return self._find_keys()[0]

    def _find_keys(self) -> tuple[str, str | Sequence[str] | KeySource]:
        if not isinstance(self.keys, str) or not self.keys.startswith("env:"):
            return "keys", self.keys
        variable = self.keys.removeprefix("env:") or f"{ENVIRONMENT_PREFIX}KEYS"
        if contains_key(variable):
            raise ConfigurationError(
                'keys: "env:" must be followed by the name of a variable; leave it out before a key'
            )
        path = secret_path(self.environ, variable)
        if path is not None:
            named = ""
            # What is wrong with the file is found when its keys are read.
            with contextlib.suppress(ConfigurationError):
                named = read_secret_file(f"{variable}{FILE_SUFFIX}", path).strip()
            is_source = named.startswith(_SOURCES) and named.isprintable()
            return f"{variable}{FILE_SUFFIX}", named if is_source else f"file:{path}"
        if variable not in self.environ:
            return variable, f"env:{variable}"
        text = clean_value(variable, self.environ[variable])
        return variable, text if text.startswith(_SOURCES) else f"env:{variable}"

    def budget_profile(self) -> Profile:
        """The profile that `profile` names. Raises ConfigurationError."""
        if isinstance(self.profile, Profile):
            return self.profile
        if self.profile not in PROFILES:
            raise ConfigurationError(
                f"profile: there is no {quote_text(self.profile)}{_nearest(self.profile, PROFILES)}"
            )
        return PROFILES[self.profile]

    def cookie_family(self) -> CookieFamily:
        """The names and attributes of the session's cookies. Raises ConfigurationError."""
        return CookieFamily(
            self._name_for(self.cookie_path, self.cookie_domain),
            self.secure,
            self.same_site,
            self.cookie_path,
            self.cookie_domain,
            self.partitioned,
            self.joined_cookie_lines,
        )

    def _name_for(self, path: str, domain: str | None) -> str:
        if self.cookie_name is not None:
            return self.cookie_name
        return "__Host-Http-s" if self.secure and path == "/" and not domain else "s"

    def former_families(self) -> tuple[CookieFamily, ...]:
        """The cookies of before, of `former_cookies`. Raises ConfigurationError."""
        families = []
        current = self.cookie_family()
        kinds: dict[str, tuple[type, ...]] = {
            "name": (str,),
            "path": (str,),
            "domain": (str, type(None)),
            "partitioned": (bool,),
        }
        if len(self.former_cookies) > MAX_FORMER:
            raise ConfigurationError(
                f"former_cookies: must be at most {MAX_FORMER}, because each response deletes them;"
                f" got {len(self.former_cookies)}"
            )
        for number, table in enumerate(self.former_cookies, 1):
            where = f"former_cookies: table {number}"
            if not isinstance(table, Mapping):
                raise ConfigurationError(f"{where} must be a table with {', '.join(kinds)}")
            refuse_unknown(table, kinds, "former_cookies.")
            for name, value in table.items():
                if not isinstance(value, kinds[name]):
                    expected = " or ".join(kind.__name__ for kind in kinds[name])
                    raise ConfigurationError(
                        f"{where}: {name}: expected {expected}, got {type(value).__name__}"
                    )
            former_path = table.get("path", current.path)
            former_name = self._name_for(former_path, table.get("domain", current.domain))
            variant = {"name": former_name, **table}
            if table.get("partitioned"):
                variant["same_site"] = "None"
            try:
                former = replace(current, **variant)
            except ConfigurationError as error:
                problem = str(error)
                if "name" not in table and problem.startswith("cookie_name: "):
                    problem += "; give the name of before, too"
                raise ConfigurationError(f"{where}: {problem}") from None
            if (former.name, former.variant) == (current.name, current.variant):
                raise ConfigurationError(
                    f"{where} is the cookie that is in use; give what was different before"
                )
            families.append(former)
        return tuple(families)

    def lifetimes(self) -> Lifetimes:
        """The lifetimes of a session. Raises ConfigurationError."""
        refresh = self.idle_lifetime // 10 if self.refresh_after is None else self.refresh_after
        if not 0 < self.idle_lifetime <= self.absolute_lifetime <= MAX_LIFETIME:
            raise ConfigurationError(
                "lifetimes: idle_lifetime must be positive and at most absolute_lifetime, which is"
                f" at most 400 days ({MAX_LIFETIME} s); got {show_value(self.idle_lifetime)} and"
                f" {show_value(self.absolute_lifetime)}"
            )
        longest = self.absolute_lifetime if self.longest_lifetime is None else self.longest_lifetime
        if not self.absolute_lifetime <= longest <= MAX_LIFETIME:
            raise ConfigurationError(
                "longest_lifetime: must be at least absolute_lifetime"
                f" ({self.absolute_lifetime} s) and at most 400 days ({MAX_LIFETIME} s);"
                f" got {show_value(longest)}"
            )
        if not 0 <= refresh < self.idle_lifetime:
            raise ConfigurationError(
                "refresh_after: must not be negative and must be less than idle_lifetime;"
                f" got {show_value(refresh)}"
            )
        return Lifetimes(self.idle_lifetime, self.absolute_lifetime, refresh, longest)

    def policies(self) -> dict[str, Policy]:
        """The policy of each named part. Raises ConfigurationError."""
        try:
            policies = {
                # Until the browser keeps such a part, it is where any part is.
                name: Policy.AUTO if word == "browser" else Policy(word)
                for name, word in self.part_policies.items()
            }
        except ValueError:
            raise ConfigurationError(
                "part_policies: each policy must be 'cookie', 'server', 'auto' or 'browser'"
            ) from None
        served = [name for name, policy in policies.items() if policy is Policy.SERVER]
        if served and self.storage is None:
            raise ConfigurationError(
                f"part_policies: {', '.join(map(quote_text, served))} must live in a store;"
                " set storage"
            )
        return policies

    def announce_seconds(self) -> int:
        """By how much the keys of a node may lag behind those of other nodes."""
        if self.announce is not None:
            return self.announce
        return minimum_announce(self.reload_every, self.skew)

    def rotation(self) -> RotationConfig:
        """How a process uses and rotates a ring. Raises ConfigurationError."""
        from .rotation.source import RotationConfig

        # Stored parts and revocations are kept this long after the last seal.
        lifetime = self.lifetimes().longest + self.skew
        return RotationConfig(
            Schedule(self.rotate_every, self.announce_seconds(), lifetime, self.skew),
            self.reload_every,
            lifetime,
            self.skew,
            self.rotate_in_process,
            self.clock,
            self.monotonic,
            self.random,
        )

    def _check_texts(self) -> None:
        """Refuse blanks and line ends around a text, and invisible letters in it.

        Otherwise a secret that `echo` wrote would name another file, or another realm than the
        secret of the next node.
        """
        for name in _READERS:
            value = getattr(self, name)
            if isinstance(value, Mapping):
                value = [text for pair in value.items() for text in pair]
            elif isinstance(value, str):
                # A key may be a line of a file, with its end: only a source is compared as it is.
                is_key = name == "keys" and not value.startswith(("env:", "file:", "store:"))
                value = [] if is_key else [value]
            elif name == "keys" or not isinstance(value, Sequence):
                continue
            for text in [each for each in value if isinstance(each, str)]:
                if text != text.strip():
                    raise ConfigurationError(
                        f"{name}: there is a blank or a line end around the text; remove it"
                    )
                odd = next((letter for letter in text if not letter.isprintable()), None)
                if odd is not None:
                    raise ConfigurationError(
                        f"{name}: there is an invisible character, U+{ord(odd):04X}; remove it"
                    )

    def _check_sources(self) -> None:
        keys, storage = self.keys, self.storage
        texts = [keys] if isinstance(keys, str) else keys
        is_list = isinstance(texts, Sequence) and all(isinstance(text, str) for text in texts)
        if not (is_list or is_key_source(keys)):
            raise ConfigurationError(
                "keys: must be text, a list of texts, or an object with keyring();"
                f" got {type(keys).__name__}"
            )
        if isinstance(storage, Mapping):
            if not all(isinstance(url, str) for pair in storage.items() for url in pair):
                raise ConfigurationError("storage: a table of contexts must map each to a URL")
        elif not (storage is None or isinstance(storage, str) or is_storage(storage)):
            raise ConfigurationError(
                "storage: expected a URL, a mapping of URLs, a store or None,"
                f" got {type(storage).__name__}"
            )

    def _check_values(self) -> None:
        for name in ("accept_weak_store_for", "may_drop", "origins", "spill_order"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(word, str) for word in value):
                raise ConfigurationError(f"{name}: must be a list of names")
        for origin in self.origins:
            if _ORIGIN.fullmatch(origin) is None:
                raise ConfigurationError(
                    "origins: expected an origin as browsers send it, such as"
                    f" 'https://app.example.org' or 'http://localhost:8000',"
                    f" got {quote_text(origin)}"
                )
        for use in self.accept_weak_store_for:
            if use not in USES:
                raise ConfigurationError(
                    f"accept_weak_store_for: there is no use {quote_text(use)}{_nearest(use, USES)}"
                )
        if not all(callable(rule) for rule in self.merge.values()):
            raise ConfigurationError("merge: must map each name to a function")
        if not all(callable(observer) for observer in self.observers):
            raise ConfigurationError("observers: each must be a function")
        if self.legacy is not None and self.legacy.names(f"{self.cookie_name}="):
            raise ConfigurationError("cookie_name: must differ from the name of the legacy cookie")
        for name in ("clock", "monotonic", "random"):
            if not callable(getattr(self, name)):
                raise ConfigurationError(f"{name}: must be a function")
        if self.convert is not None and not callable(self.convert):
            raise ConfigurationError("convert: must be a function, such as sealedstate.plain")
        if self.subject_key is not None:
            try:
                check_name(self.subject_key)
            except UnsupportedValue as error:
                raise ConfigurationError(f"subject_key: {error}") from None
            # Whoever is signed in must not depend on what the store has lost.
            if self.part_policies.get(self.subject_key) == Policy.SERVER.value:
                raise ConfigurationError("subject_key: this part must not have the policy 'server'")
            # "name*" is every part that begins so.
            if any(
                self.subject_key == each
                or (each.endswith("*") and self.subject_key.startswith(each[:-1]))
                for each in self.may_drop
            ):
                raise ConfigurationError("subject_key: this part must not be in may_drop")
        now: object = self.clock()
        if type(now) is bool or not isinstance(now, int | float) or not 0 <= now < MAX_TIME:
            raise ConfigurationError(
                f"clock: must return epoch seconds, as time.time() does; got {show_value(now)}"
            )
        for name in ("skew", "announce"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 <= seconds <= MAX_SECONDS:
                raise ConfigurationError(
                    f"{name}: must be from 0 to {MAX_SECONDS} s; got {show_value(seconds)}"
                )
        for name in ("rotate_every", "reload_every"):
            seconds = getattr(self, name)
            if not 0 < seconds <= MAX_SECONDS:
                raise ConfigurationError(
                    f"{name}: must be from 1 to {MAX_SECONDS} s; got {show_value(seconds)}"
                )
        if self.revocation not in ("each request", "feed"):
            raise ConfigurationError(
                f"revocation: must be 'each request' or 'feed'; got {quote_text(self.revocation)}"
            )
        if self.revocation == "feed" and self.storage is None:
            raise ConfigurationError("revocation: a feed needs a store; set storage")
        # It is asked once a second, and the answer takes some time, too.
        if not 2 <= self.feed_staleness <= MAX_STALENESS:
            raise ConfigurationError(
                f"feed_staleness: must be from 2 to {MAX_STALENESS} s;"
                f" got {show_value(self.feed_staleness)}"
            )
        down = self.on_store_down
        if down != "refuse" and (isinstance(down, str) or not 1 <= down <= MAX_STALENESS):
            raise ConfigurationError(
                f"on_store_down: must be 'refuse', or from 1 to {MAX_STALENESS} s;"
                f" got {show_value(down)}"
            )
        if not MIN_BOUND <= self.bound_lifetime <= MAX_BOUND:
            raise ConfigurationError(
                f"bound_lifetime: must be from {MIN_BOUND} to {MAX_BOUND} s;"
                f" got {show_value(self.bound_lifetime)}"
            )
        if self.on_unbound not in ("refuse", "sign-in", "report"):
            raise ConfigurationError(
                "on_unbound: must be 'refuse', 'sign-in' or 'report';"
                f" got {quote_text(self.on_unbound)}"
            )
        if self.binding_path is not None:
            self._check_binding(self.binding_path)
        if not isinstance(self.environ, Mapping):
            raise ConfigurationError(
                f"environ: expected a mapping, got {type(self.environ).__name__}"
            )

    def _check_binding(self, path: str) -> None:
        folder = self.cookie_path.removesuffix("/") + "/"
        if _PATH.fullmatch(path) is None or "//" in path or not path.startswith(folder):
            raise ConfigurationError(
                "binding_path: must be a path under cookie_path, such as '/session-binding', of"
                f" letters, digits and '-._~/', without '/' at its end; got {quote_text(path)}"
            )
        if not self.secure:
            raise ConfigurationError(
                "binding_path: browsers bind no session without https; leave out secure=False"
            )
        if self.cookie_domain or self.partitioned:
            raise ConfigurationError(
                "binding_path: a session of several hosts or of a partition is not bound; leave out"
                " cookie_domain and partitioned"
            )


def process_environment() -> Mapping[str, str]:
    """The environment variables of this process; the command line reads its settings from them."""
    return os.environ


# --- the settings as text and as tables ---------------------------------------------------------


class _Reader(NamedTuple):
    """The types of one setting, and how it reads from a text; None if it does not."""

    kinds: tuple[type, ...]
    from_text: Callable[[str], object] | None = None


def _read_variables(environ: Mapping[str, str], others: Collection[str] = ()) -> dict[str, Any]:
    """The settings that variables of the environment give, by their names."""
    readers = {
        f"{ENVIRONMENT_PREFIX}{name.upper()}": (name, reader.from_text)
        for name, reader in _READERS.items()
        if reader.from_text is not None
    }
    files = {f"{ENVIRONMENT_PREFIX}{name}{FILE_SUFFIX}" for name in _SECRETS}
    values: dict[str, Any] = {"environ": environ}
    for variable, text in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in (KEK_VARIABLE, *files):
            continue
        if variable not in readers:
            # Kubernetes sets such variables if a service is called sealedstate.
            is_address = _SERVICE_ADDRESS.fullmatch(variable) and "://" in text
            if not (is_address or _SERVICE_LINK.fullmatch(variable)):
                known = {*readers, KEK_VARIABLE, *files, *others} - {variable}
                refuse_unknown([variable], known)
            continue
        name, from_text = readers[variable]
        try:
            values[name] = from_text(clean_value(variable, text))
        except ConfigurationError as error:
            # The text may be a secret in the wrong variable: no error repeats it.
            problem = str(error).removeprefix(f"{variable}: ")
            raise ConfigurationError(f"{variable}: {problem}") from None
    for name in ("keys", "storage"):
        variable = f"{ENVIRONMENT_PREFIX}{name.upper()}"
        if name in values or secret_path(environ, variable) is not None:
            values[name] = f"env:{variable}"  # so that an error names the variable
    return values


def setting_names() -> set[str]:
    """The names of all settings."""
    return {item.name for item in fields(Settings)}


def cased(name: str, prefix: str) -> str:
    """The name of a setting as names with this prefix are written."""
    return name.upper() if prefix.isupper() else name


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _keys(text: str) -> str | list[str]:
    """Keys, as a variable contains them, or the name of another source."""
    words = _words(text)
    return words if all(word.startswith("sealedstate-") for word in words) else text


def _number(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,20}", text):
        raise ConfigurationError("expected a whole number, in digits")
    return int(text)


def _number_or_word(text: str) -> int | str:
    return _number(text) if text[:1].isdigit() else text


def _flag(text: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in known:
        raise ConfigurationError("expected yes or no (or true, false, 1, 0)")
    return known[text.lower()]


def _tables(text: str) -> list[dict[str, object]]:
    """``path=/app;partitioned=yes path=/old``: tables are separated by blanks."""
    tables: list[dict[str, object]] = []
    for word in text.split():
        items = [item.partition("=") for item in word.split(";")]
        if not all(equals for _, equals, _ in items):
            raise ConfigurationError(
                "expected cookies such as path=/app;partitioned=yes, separated by blanks"
            )
        table: dict[str, object] = {name: value for name, _, value in items}
        if "partitioned" in table:
            table["partitioned"] = _flag(str(table["partitioned"]))
        tables.append(table)
    return tables


def _pairs(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in _words(text):
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigurationError("expected NAME=POLICY, separated by blanks")
        if name in pairs:
            raise ConfigurationError(f"{quote_text(name)} is given twice")
        pairs[name] = value
    return pairs


_READERS = {
    "keys": _Reader((object,), _keys),
    "storage": _Reader((object,), str),
    "accept_weak_store_for": _Reader((Sequence,), _words),
    "revocation": _Reader((str,), str),
    "feed_staleness": _Reader((int,), _number),
    "on_store_down": _Reader((str, int), _number_or_word),
    "realm": _Reader((str,), str),
    "profile": _Reader((str, Profile), str),
    "idle_lifetime": _Reader((int,), _number),
    "absolute_lifetime": _Reader((int,), _number),
    "longest_lifetime": _Reader((int, type(None)), _number),
    "refresh_after": _Reader((int, type(None)), _number),
    "part_policies": _Reader((Mapping,), _pairs),
    "spill_order": _Reader((Sequence,), _words),
    "may_drop": _Reader((Sequence,), _words),
    "merge": _Reader((Mapping,)),
    "cookie_name": _Reader((str, type(None)), str),
    "cookie_path": _Reader((str,), str),
    "cookie_domain": _Reader((str, type(None)), str),
    "secure": _Reader((bool,), _flag),
    "same_site": _Reader((str,), str),
    "partitioned": _Reader((bool,), _flag),
    "former_cookies": _Reader((Sequence,), _tables),
    "binding_path": _Reader((str, type(None)), str),
    "bound_lifetime": _Reader((int,), _number),
    "on_unbound": _Reader((str,), str),
    "joined_cookie_lines": _Reader((bool,), _flag),
    "origins": _Reader((Sequence,), _words),
    "persistent": _Reader((bool,), _flag),
    "legacy": _Reader((object,)),
    "subject_key": _Reader((str, type(None)), str),
    "convert": _Reader((object,)),
    "skew": _Reader((int,), _number),
    "rotate_every": _Reader((int,), _number),
    "announce": _Reader((int, type(None)), _number),
    "reload_every": _Reader((int,), _number),
    "rotate_in_process": _Reader((bool,), _flag),
    "observers": _Reader((Sequence,)),
}


# The settings that are plain values; the others are objects of Python.
_TOML_NAMES = {name for name, reader in _READERS.items() if reader.from_text} | {"legacy"}


def _from_table(name: str, kind: Any, table: dict[str, Any]) -> Any:
    """A Profile or a LegacyReader from its TOML table."""
    if kind is Profile:
        table = {"name": "custom"} | table
    known = [item.name for item in fields(kind)]
    refuse_unknown(table, known, f"{name}.")
    try:
        if isinstance(table.get("until"), str):
            table = table | {"until": datetime.fromisoformat(table["until"])}
        return kind(**table)
    except ConfigurationError:
        raise
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name}: must be a table with {', '.join(known)}") from None


def refuse_unknown(given: Iterable[str], known: Collection[str], prefix: str = "") -> None:
    """Raise ConfigurationError for a name that is not known, with the nearest that is."""
    for name in given:
        if name not in known:
            raise ConfigurationError(
                f"there is no setting {quote_text(prefix + str(name))}"
                f"{_nearest(name, known, prefix)}"
            )


def _nearest(name: str, known: Collection[str], prefix: str = "") -> str:
    """What to write instead of an unknown name."""
    words = {
        each.removeprefix(ENVIRONMENT_PREFIX): each for each in known if each not in _FOR_TESTS
    }
    folded = {word.lower(): each for word, each in words.items()}
    bare = name.removeprefix(ENVIRONMENT_PREFIX).lower()
    import difflib

    near = difflib.get_close_matches(bare, folded, n=1, cutoff=0.75)
    if near:
        return f"; did you mean {prefix + folded[near[0]]!r}?"
    if name.startswith(ENVIRONMENT_PREFIX):
        return (
            f"; every variable that begins with {ENVIRONMENT_PREFIX} is a setting, so give yours"
            f" another name, or use one of {', '.join(sorted(words))}"
        )
    return f"; there are {', '.join(sorted(words.values()))}"

"""Which ring and which store a command uses: options and environment.

No key source is opened: a command may be there to repair a ring that is missing or damaged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from ..deployment import Deployment, open_keys, open_report_store, open_ring_storage, open_store
from ..errors import ConfigurationError, OperatorError, contains_key
from ..events import EventLog
from ..key_sources import FILE_SUFFIX, NoKeys, StaticKeys, wrapping_keyring
from ..keyring import KEY_LABEL, Keyring
from ..rotation.reports import Report, ReportStore
from ..rotation.ring import Ring, RingStorage
from ..rotation.ring_file import is_ring_file
from ..rotation.source import RotationConfig
from ..settings import ENVIRONMENT_PREFIX, Settings, process_environment
from ..storage import Storage
from ._output import config_option, json_option

HEAD_BYTES = 4096
# Any of these settings says how a ring is to rotate. A path alone does not.
KEYS_VARIABLE = f"{ENVIRONMENT_PREFIX}KEYS"
ROTATION_SETTINGS = (
    "KEYS",
    "KEYS_FILE",
    "ROTATE_EVERY",
    "ANNOUNCE",
    "SKEW",
    "ABSOLUTE_LIFETIME",
    "RELOAD_EVERY",
)


@dataclass(frozen=True, slots=True)
class RingSource:
    """Where a ring is, and the configuration of its processes.

    `path`: of a ring in a file. `store`: of a ring in a store. `is_configured`: whether settings
    say how the ring is to rotate; otherwise `config` has the defaults. `wrapping`: the
    key-encryption keys.
    """

    storage: RingStorage
    reports: ReportStore
    path: Path | None
    store: Storage | None
    config: RotationConfig
    wrapping: Keyring | None
    is_configured: bool

    @property
    def location(self) -> str:
        return self.storage.location

    @property
    def is_wrapped(self) -> bool:
        """Whether a key-encryption key is set."""
        return self.wrapping is not None

    @property
    def has_reports(self) -> bool:
        """Whether processes of this configuration report."""
        return self.is_configured and self.config.rotate_in_process

    def now(self) -> int:
        """Epoch seconds."""
        return int(self.config.clock())

    def ring(self) -> Ring:
        """The ring, with usable keys. Raises OperatorError."""
        ring = self.storage.load()
        if ring is None:
            raise OperatorError(
                f"{self.location} does not exist; if it did, restore it, otherwise"
                " `sealedstate keys init` creates it"
            )
        try:
            ring.keyring()
        except ConfigurationError as error:
            raise OperatorError(f"{self.location} cannot be used: {error}") from None
        return ring


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A ring and the reports of its processes at one moment.

    `report_error`: why the reports could not be read.
    """

    now: int
    ring: Ring
    reports: tuple[Report, ...] = ()
    report_error: str | None = None


def take_snapshot(source: RingSource) -> Snapshot:
    """Raises OperatorError without a ring; the reports may be missing."""
    try:
        # Reports first: a node that reloads in between must not seem to know a newer ring.
        reports, error = tuple(source.reports.all(source.now())), None
    except OperatorError as problem:
        reports, error = (), str(problem)
    return Snapshot(source.now(), source.ring(), reports, error)


def application_settings() -> Settings | None:
    """The settings of the application that the command was made for (`command_for`)."""
    context = click.get_current_context(silent=True)
    return None if context is None else context.find_object(Settings)


@contextmanager
def open_deployment(
    config: str | None = None, keys: str | None = None, path: str | None = None
) -> Iterator[Deployment]:
    """The store and the settings that the options name, without keys.

    Raises ConfigurationError.
    """
    if path is not None:
        if keys is not None:
            raise ConfigurationError("give either PATH or --keys")
        keys = path if path.startswith(("file:", "store:")) else f"file:{path}"
    given: dict[str, Any] = {} if keys is None else {"keys": keys}
    known = application_settings()
    if config is not None:
        settings = Settings.from_toml(config, **given)
    elif known is not None:
        settings = replace(known, **given)
    elif given or {KEYS_VARIABLE, f"{KEYS_VARIABLE}{FILE_SUFFIX}"} & set(process_environment()):
        settings = Settings.from_env(process_environment(), **given)
    else:
        raise ConfigurationError(
            "no ring is named; give `--keys file:PATH` or `--config app.toml`, or set"
            " SEALEDSTATE_KEYS"
        )
    with closing(Deployment(settings, EventLog(), open_store(settings), NoKeys())) as deployment:
        yield deployment


def source_of(deployment: Deployment, is_configured: bool, takes_clear: bool = False) -> RingSource:
    """The ring of a deployment. Raises ConfigurationError."""
    settings, store = deployment.settings, deployment.store
    keys = settings.resolve_keys()
    if not isinstance(keys, str) or "\0" in keys:
        raise ConfigurationError('keys: a ring that rotates is in "file:PATH" or "store:"')
    storage = open_ring_storage(settings, store, takes_clear=takes_clear)
    scheme, _, rest = keys.partition(":")
    path = Path(rest).absolute() if scheme == "file" else None
    head = b""
    with suppress(OSError):
        if path is not None and path.is_file():
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
    # A list of keys must not be taken for a bad ring.
    if f"{KEY_LABEL}:".encode() in head:
        raise ConfigurationError(f"{path} has one key per line, and such keys do not rotate")
    return RingSource(
        storage,
        open_report_store(settings, store),
        path,
        store if scheme == "store" else None,
        settings.rotation(),
        wrapping_keyring(settings.environ, settings.skew),
        is_configured
        or any(f"{ENVIRONMENT_PREFIX}{name}" in settings.environ for name in ROTATION_SETTINGS),
    )


@contextmanager
def open_values(
    config: str | None, keys: str | None, path: str | None = None, *, needs_store: bool = True
) -> Iterator[tuple[Deployment, RingSource | None]]:
    """The deployment that the options name, with its current keys, and its ring.

    The keys are not rotated, and need not be in a ring. Raises ConfigurationError or OperatorError.
    """
    with open_deployment(config, keys, path) as bare:
        settings, store, source = bare.settings, bare.store, None
        if store is None and needs_store:
            raise ConfigurationError(
                "storage: such values are in a store; name the configuration by --config or by"
                " SEALEDSTATE_ variables"
            )
        scheme, _, rest = str(settings.resolve_keys()).partition(":")
        if scheme == "store" or (scheme == "file" and is_ring_file(Path(rest))):
            source = source_of(bare, config is not None)
            keyring = source.ring().keyring()
        else:
            keyring = open_keys(settings, store).keyring()
        yield Deployment(settings, EventLog(), store, StaticKeys(keyring)), source


keys_option = click.option("--keys", metavar="SOURCE", help='The ring: "file:PATH" or "store:".')


def _refuse_key(_: click.Context, __: click.Parameter, path: str | None) -> str | None:
    if path is not None and contains_key(path):
        raise click.BadParameter("this is a key, not a path")
    return path


path_argument = click.argument(
    "path", metavar="[PATH]", required=False, type=click.Path(), callback=_refuse_key
)


def ring_command(
    name: str, *, takes_path: bool = True, takes_clear: bool = False
) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a command of `act(source, as_json=..., **options)`.

    `source` is the ring that the options name.
    """

    def decorate(act: Callable[..., int | None]) -> click.Command:
        @functools.wraps(act)
        def run(
            config: str | None, keys: str | None, path: str | None = None, **options: Any
        ) -> int | None:
            with open_deployment(config, keys, path) as deployment:
                is_configured = config is not None or application_settings() is not None
                return act(source_of(deployment, is_configured, takes_clear), **options)

        decorators = (json_option, config_option, keys_option)
        for decorator in (*decorators, path_argument) if takes_path else decorators:
            decorator(run)
        return click.command(name)(run)

    return decorate

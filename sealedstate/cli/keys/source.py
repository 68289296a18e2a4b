"""What commands about stored values share: the store, and the keys as they are, untended.

Knows settings and both kinds of keys. Does not know what is stored, nor what is done with it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ...deployment import Deployment, open_keys, open_report_store, open_ring_storage, open_store
from ...errors import ConfigurationError, NoPrimaryKey, OperatorError
from ...events import EventLog
from ...key_sources import KEK_VARIABLE
from ...keyring import KEY_LABEL, Keyring
from ...rotation.reports import Report, ReportStore
from ...rotation.ring import Ring, RingKey, RingStorage, Schedule
from ...rotation.ring_file import is_ring_file
from ...rotation.source import RotationConfig
from ...settings import ENVIRONMENT_PREFIX, Settings, process_environment
from ...storage import Storage

# FOLD sealedstate.cli.ring_source
# Which ring a command is about: that of a configuration file, of the environment, or of a path.
#
# Knows arguments, settings, and the first look at a ring. Does not know what is done with it.
# Nothing
# here opens a key source: a ring that is missing or broken is just what a command may be about.


LOOKED_AT = 4096  # bytes
# Whoever sets one of them has said how a ring is to rotate; a path alone has not.
SAYING = ("KEYS", "ROTATE_EVERY", "ANNOUNCE", "SKEW", "ABSOLUTE_LIFETIME", "RELOAD_EVERY")


@dataclass(frozen=True, slots=True)
class RingSource:
    """One ring's place, and the configuration that goes with it.

    `path`: of a ring in a file. `is_configured`: whether somebody has said how it is to rotate;
    otherwise `config` holds defaults. `reports_here`: whether nodes of this configuration report.
    """

    home: RingStorage
    board: ReportStore
    path: Path | None
    storage: Storage | None
    config: RotationConfig
    is_wrapped: bool
    is_configured: bool

    @property
    def reports_here(self) -> bool:
        return self.is_configured and self.config.rotate_in_process

    def now(self) -> int:
        """Epoch seconds."""
        return int(self.config.clock())

    def ring(self) -> Ring:
        """The ring, whose keys are known to be keys. Raises OperatorError."""
        ring = self.home.load()
        if ring is None:
            raise OperatorError(
                f"there is no ring at {self.home.location}: restore it if one was there, else"
                " `sealedstate keys init` makes one"
            )
        try:
            ring.keyring()
        except ConfigurationError as error:
            raise OperatorError(f"{self.home.location} can't be used: {error}") from None
        return ring

    def schedule(self, ring: Ring) -> Schedule:
        """By which a ring is to rotate: what nobody has said, it says itself."""
        return self.config.schedule if self.is_configured else ring.schedule


@dataclass(frozen=True, slots=True)
class Look:
    """What is there at one moment. `unreported`: why there are no reports, where that is known."""

    now: int
    ring: Ring
    reports: tuple[Report, ...] = ()
    unreported: str | None = None


def look_at(source: RingSource) -> Look:
    """Raises OperatorError without a ring; reports may be missing."""
    try:
        # Before the ring: otherwise a node that is quick would seem to know a newer one.
        reports, unreported = tuple(source.board.all(source.now())), None
    except OperatorError as error:
        reports, unreported = (), str(error)
    return Look(source.now(), source.ring(), reports, unreported)


def newest(ring: Ring, now: int) -> RingKey | None:
    """The key after which the next one comes; a key of the far future is none."""
    near = [key for key in ring.keys if key.disabled_at is None and not is_far(ring, key, now)]
    return max(near, key=lambda key: key.activates_at, default=None)


def kids_ever(ring: Ring) -> set[str]:
    """The keys that are there and those that are no more."""
    return {key.kid.hex() for key in ring.keys} | {dead.kid.hex() for dead in ring.tombstones}


def is_far(ring: Ring, key: RingKey, now: int) -> bool:
    """Whether only a wrong clock can have made a key: no schedule plans so far ahead."""
    schedule = ring.schedule
    return key.activates_at > now + schedule.rotate_every + schedule.announce + schedule.skew


# --- arguments ----------------------------------------------------------------------------------

Action: TypeAlias = Callable[[RingSource, argparse.Namespace], int]


def add_options(parser: argparse.ArgumentParser, takes_path: bool = True) -> None:
    """Add what says which ring is meant, and --json."""
    if takes_path:
        parser.add_argument("path", nargs="?", metavar="PATH", help="the file of the ring")
    parser.add_argument("--keys", metavar="SOURCE", help='"file:PATH" or "store:"')
    parser.add_argument("--config", metavar="FILE", help="a TOML file; else SEALEDSTATE_ variables")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(act: Action, given: argparse.Namespace) -> int:
    """One command on the ring that is meant; its exit code.

    A ring that can't be used is a finding: one sentence, and exit code 1.
    """
    with opened(given) as source:
        try:
            return act(source, given)
        except OperatorError as error:
            if given.json:
                print(json.dumps({"unusable": str(error)}))
            print(f"sealedstate: {error}", file=sys.stderr)
            return 1


@contextmanager
def opened(given: argparse.Namespace) -> Iterator[RingSource]:
    """The ring that is meant. Raises ConfigurationError."""
    with configured(given) as deployment:
        yield source_of(deployment, given)


@contextmanager
def configured(given: argparse.Namespace) -> Iterator[Deployment]:
    """The deployment that is meant, without its keys. Raises ConfigurationError."""
    settings = _settings(given)
    deployment = Deployment(settings, EventLog(), open_store(settings), _NoKeys())
    try:
        yield deployment
    finally:
        deployment.close()


class _NoKeys:
    def keyring(self) -> Keyring:
        raise NoPrimaryKey("the command line neither seals nor opens")


def _settings(given: argparse.Namespace) -> Settings:
    keys = _keys(given)
    named = {} if keys is None else {"keys": keys}
    if given.config is not None:
        return Settings.from_toml(given.config, **named)
    if not named and f"{ENVIRONMENT_PREFIX}KEYS" not in process_environment():
        raise ConfigurationError(
            "no ring is named: give a PATH or `--config app.toml`, or set SEALEDSTATE_KEYS"
        )
    return Settings.from_env(process_environment(), **named)


def _keys(given: argparse.Namespace) -> str | None:
    path = getattr(given, "path", None)
    if path is None:
        return None if given.keys is None else str(given.keys)
    if given.keys is not None:
        raise ConfigurationError("a PATH or --keys, not both")
    return path if path.startswith(("file:", "store:")) else f"file:{path}"


def source_of(deployment: Deployment, given: argparse.Namespace) -> RingSource:
    """The place of the ring of this deployment. Raises ConfigurationError."""
    settings, store = deployment.settings, deployment.store
    keys = settings.keys
    if not isinstance(keys, str) or "\0" in keys:
        raise ConfigurationError('keys: a ring that rotates is in "file:PATH" or "store:"')
    home = open_ring_storage(settings, store, takes_clear=getattr(given, "takes_clear", False))
    scheme, _, rest = keys.partition(":")
    path = Path(rest).absolute() if scheme == "file" else None
    if path is not None and _holds_lines(path):
        raise ConfigurationError(f"{path} holds keys, one a line: these don't rotate by themselves")
    return RingSource(
        home,
        open_report_store(settings, store),
        path,
        store if scheme == "store" else None,
        settings.rotation(),
        bool(settings.environ.get(KEK_VARIABLE, "").strip()),
        given.config is not None
        or any(f"{ENVIRONMENT_PREFIX}{name}" in settings.environ for name in SAYING),
    )


def _holds_lines(path: Path) -> bool:
    """Whether a file is the other kind of key file. Nothing of it is a ring's to restore."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return f"{KEY_LABEL}:".encode() in file.read(LOOKED_AT)
    except OSError:
        return False


def store_of(deployment: Deployment) -> Storage:
    """The store. Raises ConfigurationError where none is set."""
    if deployment.store is None:
        raise ConfigurationError(
            "such values are in the store, and no `storage` is set: name the configuration by"
            " --config or by SEALEDSTATE_ variables"
        )
    return deployment.store


def ring_of(deployment: Deployment, given: argparse.Namespace) -> RingSource | None:
    """The place of the ring; None where the keys are none."""
    scheme, _, rest = str(deployment.settings.keys).partition(":")
    is_one = scheme == "store" or (scheme == "file" and is_ring_file(Path(rest)))
    return source_of(deployment, given) if is_one else None


def keyring_of(deployment: Deployment, source: RingSource | None) -> Keyring:
    """The keys as they are now. Raises ConfigurationError or OperatorError."""
    if source is not None:
        return source.ring().keyring()
    return open_keys(deployment.settings, deployment.store).keyring()

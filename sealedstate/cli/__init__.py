"""The command line: ``sealedstate keys``, ``store``, ``sessions`` and others.

Exit codes: 0 done, 1 a finding (also a store or a ring that cannot be used), 2 wrong usage or
configuration. With ``--json``, a command prints for programs what it prints for people.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import click

from .. import __version__
from ..errors import (
    MetadataUnreadable,
    RegistryUnreadable,
    SealedStateError,
    StorageError,
    UsageError,
    escape_message,
)
from ..settings import Settings
from ._output import AS_JSON, OutputFailed, echo, echo_error

__all__ = ["command_for", "main"]

COMMANDS = ("keys", "sizes", "store", "sso", "consent", "sessions", "path", "explain")
# What a shell reports for a program that SIGPIPE or SIGINT ends.
BROKEN_PIPE, INTERRUPTED = 141, 130


@contextlib.contextmanager
def _escape_errors() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        text = error.format_message()
        # Without a command, the message is the help. Before click 8.2 that is no error.
        is_help = type(error).__name__ == "NoArgsIsHelpError"
        if is_help or escape_message(text) == text:
            raise
        raise click.UsageError(escape_message(text), error.ctx) from None


class _Commands(click.Group):
    """Imports each command when it is needed, and turns errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f".{cmd_name}", __name__), cmd_name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _escape_errors():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _escape_errors():
                code = super().invoke(ctx)
        except (UsageError, RegistryUnreadable, MetadataUnreadable) as error:
            echo_error(error)
            code = 2
        except SealedStateError as error:
            if ctx.meta.get(AS_JSON):
                echo(json.dumps({"unusable": str(error)}))
            prefix = "the store cannot be used: " if isinstance(error, StorageError) else ""
            echo_error(f"{prefix}{error}")
            code = 1
        except OSError as error:
            if error.filename is None:
                raise
            echo_error(f"{error.filename}: {error.strerror}")
            code = 2
        except KeyboardInterrupt:
            code = INTERRUPTED
        ctx.exit(code or 0)


# click's own option says nothing if standard output is closed.
def _print_version(ctx: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    if is_wanted:
        echo(f"sealedstate {__version__}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Sealed client-side sessions: keys, stores, sessions and consents.

    The settings of the application are read from the TOML file of --config or from the variables
    SEALEDSTATE_... of the environment. Exit codes: 0 done, 1 a finding, 2 wrong usage or
    configuration.
    """


def command_for(settings: Settings) -> click.Command:
    """The commands for an application whose settings are known, such as ``flask sealedstate``."""
    command = copy.copy(cli)
    command.name = "sealedstate"
    command.context_settings = {**cli.context_settings, "obj": settings}
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default that of the process; returns its exit code."""
    given = None if arguments is None else list(arguments)
    try:
        cli.main(given, prog_name="sealedstate")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except (OutputFailed, OSError) as failure:  # click prints help and version, and raises OSError
        error = failure.__cause__ or failure
        if sys.stdout is not None:
            # What is still buffered would raise again when the interpreter ends.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE  # the reader has ended, as `head` does
        echo_error(f"standard output: {getattr(error, 'strerror', error)}")
        return 1
    return 0

"""The command line as a whole: help, completion, exit codes and pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

import sealedstate
from sealedstate.cli import cli, main
from tests.support.ring_cli import output, run

COMMAND = [sys.executable, "-m", "sealedstate"]


def commands(command: click.Command) -> Iterator[click.Command]:
    """All commands and groups of a group."""
    yield command
    if isinstance(command, click.Group):
        with click.Context(command) as ctx:
            for name in command.list_commands(ctx):
                child = command.get_command(ctx, name)
                assert child is not None
                yield from commands(child)


def test_every_command_and_option_has_a_help_and_no_summary_is_cut() -> None:
    found = list(commands(cli))
    assert len(found) > 25
    for command in found:
        assert command.help, command.name
        assert command.help.rstrip().endswith("."), command.help
        summary = command.get_short_help_str(limit=60)
        assert command is cli or not summary.endswith("..."), summary
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{command.name} {parameter.name}"
                assert parameter.help.endswith("."), parameter.help


def test_version_is_printed() -> None:
    assert output("--version") == f"sealedstate {sealedstate.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["bogus"],
        ["keys", "revok"],
        ["keys", "disable"],
        ["keys", "watch", "--every", "0"],
        ["keys", "check", "--over", "x"],
        ["keys", "generate", "--lookup", "--kek"],
        ["store", "reap", "--limit", "0"],
        ["store", "reap", "--limit", "1.5"],
        ["sizes"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_explained_with_exit_code_2(arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "--help' for help." in err
    assert main(arguments) == 2


def test_import_of_the_package_does_not_import_click() -> None:
    program = "import sealedstate, sealedstate_wsgi, sys; print('click' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_completes_commands(shell: str) -> None:
    environ = {**os.environ, "_SEALEDSTATE_COMPLETE": f"{shell}_source"}
    script = subprocess.check_output(COMMAND, env=environ, text=True)
    assert "_SEALEDSTATE_COMPLETE" in script
    words = {"COMP_WORDS": "sealedstate keys re", "COMP_CWORD": "re" if shell == "fish" else "2"}
    environ = {**os.environ, "_SEALEDSTATE_COMPLETE": f"{shell}_complete", **words}
    completed = subprocess.check_output(COMMAND, env=environ, text=True)
    assert "reseal" in completed
    assert "revoke" in completed
    assert "watch" not in completed


def test_closed_pipe_ends_a_command_quietly() -> None:
    for arguments in (["store", "matrix"], ["keys", "generate"]):
        with subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()  # as `head` does, but before anything is written
            assert process.stderr.read() == b""
            assert process.wait() == 141

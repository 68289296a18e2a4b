"""The command line as a whole, its words and tables, and ``sealedstate sizes``."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sealedstate
from sealedstate import ConfigurationError, Key
from sealedstate.cli import _output, cli, main
from sealedstate.errors import escape_text
from tests.support.ring_cli import HOUR, output, run, usage_error

COMMAND = [sys.executable, "-m", "sealedstate"]


def commands(command: click.Command, *words: str) -> dict[click.Command, tuple[str, ...]]:
    """All commands and groups of a group, with the words that call them."""
    found = {command: words}
    if isinstance(command, click.Group):
        with click.Context(command) as ctx:
            for name in command.list_commands(ctx):
                child = command.get_command(ctx, name)
                assert child is not None
                found |= commands(child, *words, name)
    return found


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


@pytest.mark.parametrize("words", [[], ["keys"]])
def test_group_without_a_command_prints_its_help(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) in (0, 2)  # of click, before and since 8.2
    shown = capsys.readouterr()
    assert (shown.out + shown.err).startswith(f"Usage: {' '.join(['sealedstate', *words])} [")
    assert "\\n" not in shown.out + shown.err
    assert "\nCommands:\n" in shown.out + shown.err


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
        ["keys", "check", "--over", "nan"],
        ["keys", "generate", "--lookup", "--kek"],
        ["store", "reap", "--limit", "0"],
        ["store", "reap", "--limit", "1.5"],
        ["store", "reap", "--limit", "9" * 30],
        ["sizes"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_explained_with_exit_code_2(arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "--help' for help." in err
    assert main(arguments) == 2


def test_key_in_a_wrong_place_is_never_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = Key.generate(os.urandom).export()
    secret = key.rpartition(":")[2]
    for command, words in commands(cli).items():
        options = [name for option in command.params for name in option.opts if name[0] == "-"]
        for arguments in ([key], [f"--{key}"], *([name, key] for name in options)):
            _, out, err = run(*words, *arguments)
            assert secret not in out + err, (words, arguments[0])
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.slow
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


# --- words, times and tables ---------------------------------------------------------------------

NOW = 1_795_334_400  # 2026-11-22T08:00:00Z


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (86400, "1 d"),
        (86405, "1 d"),
        (12 * 3600 + 18 * 60, "12 h 18 min"),
        (400 * 86400 + 3 * 3600, "400 d 3 h"),
    ],
)
def test_duration_has_two_units_at_most(seconds: float, words: str) -> None:
    assert _output.duration(seconds) == words


def test_time_is_shown_by_its_distance() -> None:
    assert _output.relative(NOW + 3 * HOUR, NOW) == "in 3 h"
    assert _output.relative(NOW - 3 * HOUR, NOW) == "3 h ago"
    assert _output.relative(NOW, NOW) == "now"


@given(st.one_of(st.integers(), st.floats(-1e30, 1e30)))
def test_every_time_can_be_shown(epoch: float) -> None:
    assert _output.format_minute(epoch)[-3] == ":"
    assert _output.format_exact(epoch).endswith("Z")
    assert _output.format_iso(epoch)


@given(st.text())
def test_any_text_is_a_past_time_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        assert isinstance(_output.parse_past(text, NOW), int)


@given(st.text())
def test_escaped_text_is_one_short_line(text: str) -> None:
    assert escape_text(text).isprintable()
    assert len(escape_text(text, 20)) <= 20


def test_table_aligns_its_columns() -> None:
    assert _output.table([("part", "bytes"), ("cart", 5000), ("c", "")], right=[1]) == [
        "part  bytes",
        "cart   5000",
        "c",
    ]
    assert _output.markdown([("a", "b"), ("1", "2")]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_text_can_be_printed_in_any_encoding(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "shown").open("w", encoding=encoding) as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        _output.echo("Město 🔑")
    assert (tmp_path / "shown").read_text(encoding).startswith("M")


SESSION = {"subject": "jdoe", "csrf": {"$base64": "AAECAw=="}, "cart": ["x" * 5000]}


def test_every_part_is_shown_in_every_profile(tmp_path: Path) -> None:
    file = tmp_path / "session.json"
    file.write_text(json.dumps(SESSION))
    found = json.loads(output("sizes", str(file), "--json"))
    assert found["parts"].keys() == {"csrf", "cart"}
    assert found["parts"]["csrf"] == 1 + 4 + 1 + 5
    assert {name: column["places"]["cart"] for name, column in found["profiles"].items()} == {
        "tight": "spilled",
        "portable": "spilled",
        "standard": "spilled",
        "roomy": "overflow",
    }
    assert run("sizes", "-", "--json", stdin=json.dumps(SESSION).encode()).json == found
    table = {line.split()[0]: line.split()[1:] for line in output("sizes", str(file)).splitlines()}
    assert table["part"] == ["bytes", *found["profiles"]]
    assert table["cart"][1:] == ["spilled", "spilled", "spilled", "overflow"]
    assert table["cookies"] == [str(row["cookies"]) for row in found["profiles"].values()]


@pytest.mark.parametrize(
    "text",
    ["[1]", "{", '{"x": NaN', '{"x": {"$base64": "?"}}', "[" * 100_000, b"\xff"],
)
def test_file_without_a_session_is_wrong_usage(text: str | bytes, tmp_path: Path) -> None:
    file = tmp_path / "session.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "session.json" in usage_error("sizes", str(file))
    assert "no/such/file.json" in usage_error("sizes", "no/such/file.json")


# --- output that fails ----------------------------------------------------------------------------

SHORT = {"version": ["--version"], "generate": ["keys", "generate"], "matrix": ["store", "matrix"]}
HELP = {"help": ["--help"], "help of a group": ["keys", "--help"]}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", (SHORT | HELP).values(), ids=SHORT | HELP)
def test_output_that_cannot_be_written_is_a_message_and_not_a_traceback(
    arguments: list[str],
) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (
        1,
        "sealedstate: standard output: No space left on device\n",
    )


@pytest.mark.slow
@pytest.mark.parametrize("arguments", SHORT.values(), ids=SHORT)
def test_closed_standard_output_is_a_failure(arguments: list[str]) -> None:
    line = f"{sys.executable} -m sealedstate {' '.join(arguments)} >&-"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "sealedstate: standard output: it is closed\n")


def test_sizes_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "sealedstate")
    file = tmp_path / "session.json"
    file.write_text(json.dumps({"subject": "jdoe", "cart": ["tea"]}))
    assert run("sizes", str(file)).code == 0
    assert [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")] == []

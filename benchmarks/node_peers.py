"""The peers that need Node, in a process of their own that answers one question at a time.

Knows how to start Node, what to ask it and that it may be missing. Does not know the workloads or
how cookies are counted. `make bench` installs what `node/package.json` names; without Node or that
folder, these rows are left out.
"""

from __future__ import annotations

import atexit
import json
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.cookie_pairs import pairs
from benchmarks.cpu_rounds import BEFORE, Turn

HERE = Path(__file__).with_name("node")
SEEN = "seen"

Plain = dict[str, object]


class NodeMissing(ImportError):
    """Node, or what it needs, is not installed."""


def versions(name: str) -> dict[str, str]:
    """Of the package and of Node."""
    node = _run("node", "--version")
    return {name: str(ask("version", name=name)), "node": node.removeprefix("v")}


def start_fill(name: str) -> Callable[[Plain], list[str]]:
    """A function that puts a session into Set-Cookie lines."""
    ask("version", name=name)

    def fill(session: Plain) -> list[str]:
        return [str(line) for line in ask("fill", name=name, session=session)]

    return fill


def start_turn(name: str, session: Plain, reads: str) -> Turn:
    """Turns of opening, reading, changing and saving; timed over there, all threads of Node's."""
    lines = ask("fill", name=name, session=session | {SEEN: BEFORE})
    cookie = "; ".join(pairs(lines))
    if not cookie:
        raise ValueError("no cookie of 4096 bytes holds it")

    def turn(calls: int) -> int:
        return int(ask("turn", name=name, cookie=cookie, reads=reads, calls=calls, before=BEFORE))

    return turn


def ask(question: str, **given: Any) -> Any:
    """One question, one answer. Raises NodeMissing, or RuntimeError with what Node says."""
    process = _node()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"ask": question, **given}) + "\n")
    process.stdin.flush()
    told = json.loads(process.stdout.readline() or '{"error": "Node has ended"}')
    if "error" in told:
        raise RuntimeError(told["error"])
    return told["answer"]


@cache
def _node() -> subprocess.Popen[str]:
    if shutil.which("node") is None:
        raise NodeMissing("node is not installed")
    if not (HERE / "node_modules").is_dir():
        raise NodeMissing(f"npm install --prefix {HERE}")
    process = subprocess.Popen(
        ["node", str(HERE / "peers.mjs")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(_end, process)
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait()


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

"""The decoder in JavaScript opens the vectors and fresh tokens: docs/format.md is enough for it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.documents import ROOT
from tests.support.installed import program
from tests.wire.fresh_tokens import lines

FOLDER = ROOT / "decoders" / "javascript"

pytestmark = pytest.mark.server


@pytest.fixture
def node() -> str:
    return program("node")


def run(node: str, script: str, *arguments: str | Path, given: str = "") -> None:
    """Run a script of the decoder, which ends with a summary. Fails with its output."""
    done = subprocess.run(
        [node, FOLDER / script, *arguments],
        input=given,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["all as expected"]), (
        done.stdout[-5000:] + done.stderr
    )


def test_vectors_open_and_are_refused_as_the_page_says(node: str) -> None:
    run(node, "test.mjs", ROOT / "tests" / "vectors")


@pytest.mark.parametrize("number", [2000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_fresh_tokens_open_with_their_contents(node: str, number: int) -> None:
    run(node, "fresh.mjs", given="".join(json.dumps(line) + "\n" for line in lines(number, "seed")))

"""Runs the tests of other projects on sealed sessions, and prints what they report as a table.

python tests/peers [NAME...]

Each suite comes from its project's sdist, or from a checkout that a variable names, and runs in
this environment with the plugin of its name in this folder. A failure that is listed with its
reason is an exception; any other failure, and a test that is listed and passes, ends the run with
exit code 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / "build" / "peers"


@dataclass(frozen=True)
class Suite:
    """The tests of one project.

    `requirement`: of its sdist. `variable`: the one that names a checkout, for a project whose
    sdist has no tests. `plugin`: the module of this folder that gives it our sessions. `folder`:
    where pytest runs, in the sdist. `tests`: what it runs. `goal`: how many must pass.
    `exceptions`: tests that may fail, with the reason.
    """

    name: str
    plugin: str
    goal: int
    requirement: str = ""
    variable: str = ""
    folder: str = "."
    tests: tuple[str, ...] = ("tests",)
    exceptions: dict[str, str] = field(default_factory=dict)


FLASK = "flask==3.1.3"
SUITES = [
    Suite(
        "Flask",
        "flask",
        486,
        FLASK,
        exceptions={
            "test_session_using_session_settings": "SESSION_COOKIE_HTTPONLY=False is refused",
            "test_session_using_samesite_attribute": "a cookie always has SameSite",
            "test_session_expiration": "a cookie has Max-Age in place of Expires",
            "test_bad_environ_raises_bad_request": "fails without our sessions, too (Werkzeug)",
        },
    ),
    Suite("Flask-Login", "flask", 114, "flask-login==0.6.3"),
    Suite("Flask-WTF", "flask", 80, "flask-wtf==1.3.0"),
    Suite("Flask's tutorial", "flask", 24, FLASK, folder="examples/tutorial"),
]


@dataclass(frozen=True)
class Figures:
    """What a suite reported: how many tests there are, passed and were skipped; which failed."""

    total: int
    passed: int
    skipped: int
    failed: frozenset[str]


def main() -> int:
    """Run the suites; returns the exit code."""
    parser = argparse.ArgumentParser("python tests/peers", description="Tests of other projects.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only suites with this in a name")
    names = [name.lower() for name in parser.parse_args().names]
    rows, is_good = [], True
    for suite in SUITES:
        if names and not any(name in suite.name.lower() for name in names):
            continue
        if suite.variable and suite.variable not in os.environ:
            print(f"{suite.name}: skipped; set {suite.variable} to a checkout that has its tests")
            continue
        figures = run(suite)
        unexpected = figures.failed - suite.exceptions.keys()
        outdated = suite.exceptions.keys() - figures.failed
        is_good = is_good and not (unexpected or outdated) and figures.passed >= suite.goal
        for name in sorted(unexpected):
            print(f"{suite.name}: {name} failed")
        for name in sorted(outdated):
            print(f"{suite.name}: {name} passes, so it is no exception")
        reasons = "; ".join(f"{name}: {suite.exceptions[name]}" for name in suite.exceptions)
        cells = (suite.name, figures.total, figures.passed, figures.skipped, suite.goal, reasons)
        rows.append(cells)
    print("| suite | tests | passed | skipped | goal | exceptions |")
    print("|---|---|---|---|---|---|")
    for cells in rows:
        print(f"| {' | '.join(map(str, cells))} |")
    return 0 if is_good else 1


def run(suite: Suite) -> Figures:
    """Run one suite with its plugin."""
    folder = source_of(suite) / suite.folder
    with tempfile.TemporaryDirectory() as made:
        # The plugins are named as what they are for: this folder must not be on the path itself.
        (Path(made) / "peers").symlink_to(HERE)
        report = Path(made) / "report.xml"
        command = [
            *(sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"),
            *("-p", f"peers.{suite.plugin}", f"--junit-xml={report}", *suite.tests),
        ]
        path = os.pathsep.join([made, str(folder)])
        outcome = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        if not report.exists():
            raise SystemExit(f"{suite.name}: pytest did not run\n{outcome.stdout}{outcome.stderr}")
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = frozenset(_names_with(cases, "failure", "error"))
    skipped = sum(case.find("skipped") is not None for case in cases)
    bad = sum(case.find(kind) is not None for case in cases for kind in ("failure", "error"))
    return Figures(len(cases), len(cases) - skipped - bad, skipped, failed)


def source_of(suite: Suite) -> Path:
    """The folder of the checkout or of the sdist, which is fetched once."""
    if suite.variable:
        return Path(os.environ[suite.variable]).resolve()
    target = CACHE / re.sub(r"\W", "-", suite.requirement)
    if not target.exists():
        with tempfile.TemporaryDirectory() as made:
            fetch = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
            command = [*fetch, "--no-binary", ":all:", "--dest", made, suite.requirement]
            subprocess.run(command, check=True)
            (archive,) = Path(made).glob("*.tar.gz")
            with tarfile.open(archive) as opened:
                opened.extractall(target, filter="data")
    (folder,) = target.iterdir()
    return folder


def _names_with(cases: list[ElementTree.Element], *kinds: str) -> Iterator[str]:
    for case in cases:
        if any(case.find(kind) is not None for kind in kinds):
            yield case.get("name", "").partition("[")[0]


if __name__ == "__main__":
    sys.exit(main())

"""What is built and installed: the core and its adapters under their own names, nothing else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import sealedstate

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(target)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return target


def test_a_wheel_holds_the_core_and_the_adapters_and_nothing_beside_them(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "sealedstate",
        "sealedstate_wsgi",
    }
    assert {"sealedstate/py.typed", "sealedstate_wsgi/py.typed"} <= set(names)


def test_an_sdist_holds_what_a_packager_tests_with(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"tests", "benchmarks", "examples", "middleware", "LICENSE", "Makefile"} <= tops


def test_the_project_runs_with_few_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {line.split(">")[0] for line in project["dependencies"]}
    assert names == {"pynacl", "cbor2", "werkzeug", "itsdangerous"}


def test_every_name_of_the_front_door_is_there_and_documented() -> None:
    for name in sealedstate.__all__:
        thing = getattr(sealedstate, name)
        assert name.startswith("__") or name == "PROFILES" or thing.__doc__


@pytest.mark.parametrize("file", ["README.md", "CHANGELOG.md", "LICENSE"])
def test_what_a_newcomer_reads_first_is_there(file: str) -> None:
    assert (ROOT / file).read_text().strip()

"""A wheel holds the core and its adapters, an sdist what a packager tests with."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import sealedstate
from tests.support.documents import ROOT

DEPENDENCIES = {"pynacl", "cbor2", "werkzeug", "itsdangerous", "click"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return target


def test_wheel_holds_the_core_and_the_adapters_only(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    packages = {top for top in tops if not top.endswith(".dist-info")}
    assert packages == {"sealedstate", "sealedstate_wsgi"}
    assert {f"{package}/py.typed" for package in packages} <= set(names)


def test_sdist_holds_what_a_packager_tests_with(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"tests", "benchmarks", "examples", "middleware", "LICENSE", "Makefile"} <= tops


def test_core_has_few_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {line.split(">")[0] for line in project["dependencies"]} <= DEPENDENCIES


def test_public_names_of_the_package_exist_and_are_documented() -> None:
    for name in sealedstate.__all__:
        assert getattr(sealedstate, name).__doc__ or name in ("__version__", "PROFILES")


def test_first_documents_of_a_newcomer_exist() -> None:
    for name in ("README.md", "CHANGELOG.md", "LICENSE"):
        assert (ROOT / name).read_text().strip()

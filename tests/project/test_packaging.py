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
from tests.project.test_layers import MODULES, libraries_of
from tests.support.documents import ROOT

DEPENDENCIES = {"pynacl", "cbor2", "werkzeug", "itsdangerous", "markupsafe", "click"}

ADAPTERS = {"aiohttp", "asgi", "django", "flask", "litestar", "pyramid", "quart", "wsgi"}


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
    assert packages == {"sealedstate"} | {f"sealedstate_{name}" for name in ADAPTERS}
    assert {f"{package}/py.typed" for package in packages} <= set(names)


def test_sdist_holds_what_a_packager_tests_with(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"tests", "benchmarks", "examples", "middleware", "LICENSE", "Makefile"} <= tops


def test_core_has_few_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {line.split(">")[0] for line in project["dependencies"]} <= DEPENDENCIES


def test_every_library_that_the_core_imports_is_declared() -> None:
    optional = {"sqlalchemy", "psycopg", "pymysql", "redis", "pymemcache", "botocore"}
    optional |= {
        "prometheus_client",
        "opentelemetry",
        "pytest",
        "hypothesis",
        "anyio",
        "cryptography",
    }
    names = {"nacl": "pynacl"}
    imported = {
        names.get(library, library) for module in MODULES for library in libraries_of(module)
    }
    assert imported - sys.stdlib_module_names - optional - {"sealedstate"} <= DEPENDENCIES


# The first releases without the known vulnerabilities of the ones before.
FLOORS = {
    "pynacl": (1, 6, 2),  # CVE-2025-69277
    "werkzeug": (3, 1, 6),  # CVE-2024-49767, CVE-2025-66221, CVE-2026-21860, CVE-2026-27199
    "flask": (3, 1, 3),  # CVE-2025-47278, CVE-2026-27205
    "quart": (0, 20),  # CVE-2024-49767
    "litestar": (2, 20),  # CVE-2026-25479, CVE-2026-25480
    "pyramid": (2, 0, 2),  # CVE-2023-40587
    "aiohttp": (3, 13, 4),  # CVE-2025-69228, CVE-2025-69229, CVE-2026-22815
    "jinja2": (3, 1, 6),  # CVE-2025-27516
    "waitress": (3, 0, 1),  # CVE-2024-49768, CVE-2024-49769
    "pymysql": (1, 1, 1),  # CVE-2024-36039
    "gunicorn": (23,),  # CVE-2024-1135, CVE-2024-6827
    "cbor2": (6,),  # CVE-2025-64076, CVE-2025-68131
    "redis": (4, 5, 5),  # CVE-2023-28859
    "click": (8, 1),
}


def test_floor_of_a_dependency_admits_no_release_with_a_known_vulnerability() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    seen = set()
    for line in lines:
        name, _, floor = line.partition(",")[0].partition(">=")
        name = name.partition("[")[0]
        if name in FLOORS:
            seen.add(name)
            assert tuple(int(x) for x in floor.split(".")) >= FLOORS[name], line
    assert seen == set(FLOORS)


def test_public_names_of_the_package_exist_and_are_documented() -> None:
    for name in sealedstate.__all__:
        assert getattr(sealedstate, name).__doc__ or name in ("__version__", "PROFILES")


def test_first_documents_of_a_newcomer_exist() -> None:
    for name in ("README.md", "CHANGELOG.md", "LICENSE"):
        assert (ROOT / name).read_text().strip()

"""Each library has one door.

Reads the source with ast; imports nothing of the project.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The published conformance kit is beside the packages: only tests import it.
BESIDE = "testing"

# Each library is imported by one part of the package. A module or a package, without "sealedstate."
DOORS = {
    "nacl": {"_wire.aead"},
    "cbor2": {"_wire.cbor"},
    "itsdangerous": {"legacy"},
    "werkzeug": {"legacy"},
    "sqlite3": {"storage.sqlite"},
    # Besides the clock that settings inject, only what waits for a store or a lock asks for the
    # time.
    "time": {
        "settings",
        "cli.store",
        # How long they sleep.
        "cli.keys.check",
        "cli.keys.watch",
        "rotation.ring_file",
        "testing.clock",
        "testing.workers",
        "storage.sqlite",
        "storage.redis",
        "storage.sql",
    },
    "sqlalchemy": {"storage.sql"},
    "psycopg": {"storage.sql.postgresql"},
    "pymysql": {"storage.sql.mariadb"},
    "redis": {"storage.redis.client"},
    "pymemcache": {"storage.memcached.client"},
    "prometheus_client": {"exporters.prometheus"},
    "opentelemetry": {"exporters.opentelemetry"},
    "socket": {"storage.memcached.client", "storage.sql.mariadb"},
    "xml": {"sso.registry"},
    "urllib": {"storage.memcached.client", "storage.redis.server"},
    "random": {"storage.redis.client"},
    "fcntl": {"rotation.ring_file"},
    "tomllib": {"settings"},
    "argparse": {"cli"},
}
# No deserialiser that runs code, no quadratic cookie parser.
NOWHERE = {"pickle", "marshal", "shelve", "yaml", "http", "requests"}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / "sealedstate").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "sealedstate").with_suffix("").parts)
        yield name.removesuffix("__init__").removesuffix("."), path


MODULES = dict(modules())


def is_beside(module: str) -> bool:
    return module.split(".")[0] == BESIDE


def imports_of(module: str) -> Iterator[str]:
    """What a module imports: dotted names, those of the project without its first component."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    package = [part for part in package if part]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (f"!{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield f"!{node.module}"
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            for alias in node.names:
                whole = [*base, *(node.module.split(".") if node.module else []), alias.name]
                # `from ..keys import Key` names a thing in a module, `from .. import codec` one.
                yield ".".join(whole if ".".join(whole) in MODULES else whole[:-1])


@pytest.mark.parametrize("module", MODULES)
def test_each_library_has_one_door(module: str) -> None:
    for imported in imports_of(module):
        library = imported.removeprefix("!").split(".")[0]
        if imported.startswith("!"):
            assert library not in NOWHERE, f"{module} imports {library}"
            doors = DOORS.get(library, {module})
            assert any(module == door or module.startswith(f"{door}.") for door in doors), (
                f"{module} imports {library}"
            )
            assert library != "sealedstate", f"{module} imports itself absolutely"


def test_the_core_knows_no_framework_and_no_adapter() -> None:
    known = {imported for module in MODULES for imported in imports_of(module)}
    assert not {name for name in known if name.startswith(("!sealedstate_", "!flask", "!django"))}


def test_adapters_are_packages_under_their_own_names() -> None:
    root = ROOT / "middleware"
    assert not (root / "__init__.py").exists()
    found = [path for path in root.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert found
    assert all(path.name.startswith("sealedstate_") for path in found)
    assert all((path / "py.typed").exists() for path in found)


def test_no_environment_is_read_but_through_the_settings() -> None:
    readers = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        if isinstance(node.value, ast.Name) and node.value.id == "os"
    }
    assert readers == {"settings"}

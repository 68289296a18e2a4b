"""The house's floors: imports only go down, and each library has one door.

Reads the source with ast; imports nothing of the project.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up. Modules of one floor don't know one another.
FLOORS = [
    {"errors"},
    {
        "aead",
        "record",
        "keys",
        "clocks",
        "events",
        "storage.contract",
        "storage.hashed_names",
        "storage.idle",
        "storage.options",
        "storage.split_text",
        "rotation.schedule",
    },
    {
        "codec",
        "sealing",
        "part",
        "exporters",
        "chunking",
        "cookies",
        "rotation.ring",
        "storage.requirements",
    },
    {
        "session",
        "record_codec",
        "budget",
        "placing",
        "rows",
        "legacy",
        "exporters.prometheus",
        "exporters.opentelemetry",
        "storage.memory",
        "storage.sqlite_link",
        "storage.objects",
        "storage.layered",
        "storage.redis_scripts",
        "storage.redis_server",
        "storage.memcached_link",
        "storage.sql_driver",
        "key_sources.static",
        "rotation.document",
        "rotation.evolution",
        "rotation.home",
    },
    {"followers"},
    {"rotation", "spilling", "revocation", "resealing"},
    {
        "storage.redis_link",
        "storage.sql_link",
        "storage.sql_mariadb",
        "storage.sql_postgresql",
        "key_sources.ring_text",
        "key_sources.reports",
    },
    {"storage.memcached", "storage.redis", "storage.sql", "storage.sqlite"},
    {
        "storage",
        "storage.matrix",
        "storage.trial",
        "key_sources.environment",
        "key_sources.secrets_file",
        "key_sources.ring_file",
        "key_sources.ring_store",
        "key_sources.rotating",
    },
    {"fitness"},
    {"key_sources"},
    {"tokens", "settings"},
    {"toolkit"},
    {"visit"},
    {"ended", "core_saving"},
    {"saving"},
    {"keeper"},
    {"cookie_storage"},
    {"sso.errors", "sso.wellknown", "sso.bits", "sso.logins", "sso.packing", "sso.deployment"},
    {"sso.texts", "sso.registry", "sso.derived", "sso.saml_metadata", "sso.saml_artifacts"},
    {"sso.replay", "sso.artifacts", "sso.consent"},
    {"sso.heads", "sso.shapes", "sso.making"},
    {"sso.groups"},
    {"sso.columns"},
    {"sso.login_records", "sso.owners", "sso.sessions"},
    {"sso.finding"},
    {"sso.ledger"},
    {"sso.ending", "sso.progress"},
    {"sso.logout", "sso.abilities"},
    {"sso"},
    {
        "cli.findings",
        "cli.wording",
        "cli.ring_source",
        "cli.sessions",
        "cli.sizes",
        "cli.sso",
        "cli.store",
    },
    {"cli.timeline", "cli.ring_commands", "cli.ring_findings"},
    {"cli.ring_list", "cli.ring_wrap", "cli.stored"},
    {"cli.reseal", "cli.consent"},
    {"cli.node_findings"},
    {"cli.ring_check"},
    {"cli.ring_watch"},
    {"cli.keys"},
    {"cli"},
    {"", "__main__"},
]
# The published conformance kit stands beside the house: only tests import it.
BESIDE = "testing"
FLOOR = {module: number for number, floor in enumerate(FLOORS) for module in floor}

SQL = ("_mariadb", "_postgresql")
DOORS = {
    "nacl": {"aead"},
    "cbor2": {"codec"},
    "itsdangerous": {"legacy"},
    "werkzeug": {"legacy"},
    "sqlite3": {"storage.sqlite", "storage.sqlite_link"},
    # Besides the clock that settings inject, only what waits for a store or a lock asks for the
    # time.
    "time": {
        "settings",
        "cli.store",
        # How long they sleep.
        "cli.ring_check",
        "cli.ring_watch",
        "key_sources.ring_file",
        "testing.clock",
        "testing.crew",
        "storage.sqlite_link",
        "storage.redis_link",
        "storage.sql",
        "storage.sql_driver",
        "storage.sql_link",
        "storage.sql_mariadb",
        "storage.sql_postgresql",
    },
    "sqlalchemy": {f"storage.sql{rest}" for rest in ("", "_driver", "_link", *SQL)},
    "psycopg": {"storage.sql_postgresql"},
    "pymysql": {"storage.sql_mariadb"},
    "redis": {"storage.redis_link"},
    "pymemcache": {"storage.memcached_link"},
    "prometheus_client": {"exporters.prometheus"},
    "opentelemetry": {"exporters.opentelemetry"},
    "socket": {"storage.memcached_link", "storage.sql_mariadb"},
    "xml": {"sso.saml_metadata"},
    "urllib": {"storage.memcached_link", "storage.redis_server"},
    "random": {"storage.redis_link"},
    "fcntl": {"key_sources.ring_file"},
    "tomllib": {"settings"},
    "argparse": {"cli"}
    | {f"cli.{name}" for name in ("keys", "sizes", "sso", "store", "ring_source", "reseal")}
    | {"cli.sessions"}
    | {"cli.stored", "cli.consent"}
    | {f"cli.ring_{name}" for name in ("commands", "list", "check", "watch", "wrap")},
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
def test_every_module_has_its_floor_and_says_what_it_does_not_know(module: str) -> None:
    assert module in FLOOR or is_beside(module)
    docstring = ast.get_docstring(ast.parse(MODULES[module].read_text()))
    assert docstring
    if module not in ("", "__main__"):
        assert re.search(r"\b(no|not|nothing)\b", docstring)


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module: str) -> None:
    for imported in imports_of(module):
        if not imported.startswith("!") and not is_beside(module):
            assert FLOOR[imported] < FLOOR[module], f"{module} imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_each_library_has_one_door(module: str) -> None:
    for imported in imports_of(module):
        library = imported.removeprefix("!").split(".")[0]
        if imported.startswith("!"):
            assert library not in NOWHERE, f"{module} imports {library}"
            assert module in DOORS.get(library, {module}), f"{module} imports {library}"
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

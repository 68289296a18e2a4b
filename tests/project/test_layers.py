"""What imports cannot say to import-linter: each library is imported by one part of the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

from tests.support.documents import ROOT

# Each library, and the modules or packages that may import it, without "sealedstate.".
DOORS = {
    "nacl": {"_wire.aead"},
    "cbor2": {"_wire.cbor"},
    "itsdangerous": {"legacy"},
    "cryptography": {"binding", "legacy", "testing.adapters"},
    "werkzeug": {"legacy"},
    "sqlite3": {"storage.sqlite"},
    # Besides the clock that settings inject, only what waits for a store or a lock asks for the
    # time.
    "time": {
        "_forks",
        "settings",
        "cli.path",
        "cli.store",
        "cli._key_checks",
        "rotation.ring_file",
        "testing._suite",
        "testing._workers",
        "storage.sqlite",
        "storage.redis",
        "storage.memcached",
        "storage.sql",
        "storage.dynamodb",
    },
    "sqlalchemy": {"storage.sql", "storage.sql._engine"},
    "psycopg": {"storage.sql._postgresql"},
    "pymysql": {"storage.sql._mariadb"},
    "redis": {"storage.redis"},
    "pymemcache": {"storage.memcached._client"},
    "botocore": {"storage.dynamodb"},
    "prometheus_client": {"exporters.prometheus"},
    "opentelemetry": {"exporters.opentelemetry"},
    "socket": {
        "cli.path",
        "storage.memcached._client",
        "storage.redis._servers",
        "storage.sql._mariadb",
    },
    "xml": {"sso.registry"},
    "urllib": {
        "cli.path",
        "path",
        "storage.memcached._client",
        "storage.redis._servers",
        "storage.dynamodb",
        "storage.sql._mariadb",
    },
    "random": {"storage.sql._pool"},
    "fcntl": {"rotation.ring_file"},
    "tomllib": {"settings"},
    "click": {"cli"},
    "anyio": {"asynchronous"},
    "asyncio": {"asynchronous"},
}


# No deserialiser that runs code, no quadratic cookie parser, no framework.
NOWHERE = {
    "pickle",
    "marshal",
    "shelve",
    "yaml",
    "http",
    "requests",
    "flask",
    "django",
    "starlette",
    "quart",
    "litestar",
    "pyramid",
    "aiohttp",
}


def syntax_trees() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package by its name without "sealedstate."."""
    for path in sorted((ROOT / "sealedstate").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "sealedstate").with_suffix("").parts)
        yield name.removesuffix("__init__").removesuffix("."), ast.parse(path.read_text("utf-8"))


MODULES = dict(syntax_trees())


def libraries_of(module: str) -> set[str]:
    """The first components of all absolute imports."""
    found = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            found.add(node.module.split(".")[0])
    return found


# What `import sealedstate` loads. Anything else is imported where it is used: stores and rings
# when the settings name one, readers of old sessions and protectors when the application does.
AT_START = [
    "_cookies",
    "_cookies.codec",
    "_cookies.header",
    "_cookies.placement",
    "_forks",
    "_request",
    "_request.load",
    "_request.save",
    "_stored",
    "_stored.circuit",
    "_stored.feed",
    "_stored.parts",
    "_stored.revocations",
    "_stored.table",
    "_wire",
    "_wire.aead",
    "_wire.cbor",
    "_wire.encoding",
    "_wire.record",
    "_wire.token",
    "deployment",
    "errors",
    "events",
    "hooks",
    "keeper",
    "key_sources",
    "keyring",
    "profiles",
    "rotation",
    "rotation.ring",
    "session",
    "settings",
    "storage",
    "storage.cache",
    "storage.contract",
    "storage.memory",
    "storage.requirements",
    "storage.routing",
    "storage.urls",
]


def test_import_loads_no_module_that_only_some_settings_need() -> None:
    # sqlite3 or werkzeug would take a tenth, or a third, of the time of a start.
    script = """if True:
        import sys
        before = set(sys.modules)
        import sealedstate
        core = set(sys.modules)
        import sealedstate_wsgi
        print(*core - before)
        print(*set(sys.modules) - core)
    """
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    core, adapter = (set(line.split()) for line in ran.stdout.splitlines())
    package = {name for name in core if name.split(".")[0] == "sealedstate"}
    assert package == {"sealedstate", *(f"sealedstate.{name}" for name in AT_START)}
    libraries = {name.split(".")[0] for name in core} - sys.stdlib_module_names
    assert libraries <= {"sealedstate", "cbor2", "nacl", "markupsafe", "_cffi_backend", "_sodium"}
    assert not core & {"difflib", "fcntl", "hmac", "json", "sqlite3", "tomllib"}
    assert not (core | adapter) & {"asyncio", "email", "http", "pickle", "socket", "subprocess"}
    assert {name.split(".")[0] for name in adapter} - sys.stdlib_module_names == {
        "sealedstate",
        "sealedstate_wsgi",
    }


def test_each_library_is_imported_by_one_part_of_the_package() -> None:
    wrong = [
        f"{module} imports {library}"
        for module in MODULES
        for library in libraries_of(module)
        if library in NOWHERE
        or (
            library in DOORS
            and not any(f"{module}.".startswith(f"{door}.") for door in DOORS[library])
        )
    ]
    assert wrong == []


def test_package_imports_itself_by_relative_names() -> None:
    assert [name for name in MODULES if "sealedstate" in libraries_of(name)] == []


def test_environment_is_read_by_the_settings_only() -> None:
    readers = {
        module
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        if isinstance(node.value, ast.Name) and node.value.id == "os"
    }
    assert readers == {"settings"}


def test_adapters_are_packages_under_their_own_names() -> None:
    root = ROOT / "middleware"
    assert not (root / "__init__.py").exists()
    found = [path for path in root.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert found
    assert all(path.name.startswith("sealedstate_") for path in found)
    assert all((path / "py.typed").exists() for path in found)

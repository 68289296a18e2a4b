"""What docs/ says is so: tables that are generated from code, URLs, options, commands and rights.

Knows how the documents mark what is generated. Does not know why it is so.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sealedstate import Key, Settings
from sealedstate.cli import main
from sealedstate.storage import URLS, USES, RoutedStorage, SQLiteStorage, open_storage
from sealedstate.storage.requirements import DECLARED, as_markdown
from sealedstate.storage.urls import OPTIONS, PREFIX
from tests.support import sql_servers
from tests.support.kv_servers import redis_server
from tests.support.sql_server import PASSWORD, SQLServer

postgresql_server = sql_servers.postgresql_server
mariadb_server = sql_servers.mariadb_server

DOCS = Path(__file__).parents[2] / "docs"
STORES = (DOCS / "stores.md").read_text("utf-8")


def between(mark: str, text: str = STORES) -> str:
    """What stands between ``<!-- MARK -->`` and its end."""
    name = re.escape(mark.split(":")[0])
    found = re.search(rf"<!-- {re.escape(mark)} -->\n(.*?)\n?<!-- /{name} -->", text, re.DOTALL)
    assert found is not None, f"there is no mark {mark!r}"
    return found[1]


# --- what is generated --------------------------------------------------------------------------


def test_the_matrix_in_the_documentation_is_the_one_in_the_code() -> None:
    assert between("matrix: sealedstate store matrix --markdown") == as_markdown(DECLARED)


def test_what_each_use_needs_is_what_the_code_asks_for() -> None:
    lines = ["| use | keeps | in a store that | contexts |", "|---|---|---|---|"]
    for title, use in USES.items():
        needs = "; ".join(need.wanted for need in use.needs)
        contexts = ", ".join(f"`{context}`" for context in use.contexts)
        lines.append(f"| {title} | {use.purpose} | {needs} | {contexts} |")
    assert between("uses") == "\n".join(lines)


@pytest.mark.server
def test_the_check_of_a_redis_is_shown_as_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with redis_server("aof everysec") as server:
        assert main(["store", "check", f"{server.url}?{PREFIX}timeout=60"]) == 1
    shown = f"```\n$ sealedstate store check redis://cache\n{capsys.readouterr().out}```"
    assert between("check: redis everysec") == shown


# --- what is written by hand --------------------------------------------------------------------


def test_every_kind_of_url_and_every_option_is_explained() -> None:
    for url in URLS:
        assert f"| `{url.partition(':')[0]}:" in STORES
    for name in OPTIONS:
        assert f"| `{PREFIX}{name}` |" in STORES


def test_every_url_that_is_an_example_opens() -> None:
    examples = re.findall(r"[`\"]((?:\w+:)?\w+:(?:\d+:)?[/\w][^`\"\s]*)[`\"]", STORES)
    urls = [url for url in examples if url.partition(":")[0] in SCHEMES and not names_a_blank(url)]
    assert {url.partition(":")[0] for url in urls} >= SCHEMES - {"memory", "mariadb"}
    for url in urls:
        open_storage(url, time.time).close()


SCHEMES = {url.partition(":")[0] for url in URLS}


def names_a_blank(url: str) -> bool:
    """Whether something is to be filled in, as in ``sqlite:PATH``."""
    return re.search(r"\b[A-Z]{2,}\b", url) is not None or url.endswith("//")


def test_every_link_leads_to_something() -> None:
    for document in DOCS.glob("*.md"):
        text = document.read_text("utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            path, _, heading = target.partition("#")
            linked = (document.parent / path) if path else document
            assert linked.exists(), f"{document.name}: {target}"
            if heading:
                assert heading in headings(linked.read_text("utf-8")), f"{document.name}: {target}"


def headings(text: str) -> set[str]:
    """What the headings of a document are linked by."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_piece_of_python_compiles() -> None:
    for document in DOCS.glob("*.md"):
        for code in re.findall(r"```python\n(.*?)```", document.read_text("utf-8"), re.DOTALL):
            compile(code, document.name, "exec")


def test_the_split_that_is_shown_can_be_read_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.search(r'SEALEDSTATE_STORAGE="(.*)"', between("split"))
    assert found is not None
    keys = Key.generate(os.urandom).export()
    settings = Settings.from_env({"SEALEDSTATE_STORAGE": found[1], "SEALEDSTATE_KEYS": keys})
    split = settings.store
    assert isinstance(split, RoutedStorage)
    assert split.contexts == ["sealedstate.revoked", "sealedstate.watermark"]
    assert isinstance(split.store_of("sealedstate.watermark"), SQLiteStorage)
    assert isinstance(split.store_of("sealedstate.part"), MemcachedStorage)


def test_the_view_of_objects_that_is_shown_does_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = between("objects").removeprefix("```python\n").removesuffix("```")
    used, deletion, rest = code.partition('carts.delete("jdoe")')
    assert (bool(deletion), rest.strip()) == (True, "")
    names: dict[str, Any] = {}
    exec(compile(used, "objects", "exec"), names)
    with contextlib.closing(names["store"]):
        cart = names["carts"].read("jdoe")
        assert cart.value == {"tea": 1, "rice": 2}
        assert cart.expires_at == names["in_a_week"]
        assert cart.version > names["version"]
        exec(deletion, names)
        assert names["carts"].read("jdoe") is None


# --- rights -------------------------------------------------------------------------------------


def rights(server: str, who: str, schema: str) -> list[str]:
    """The GRANTs that the documentation gives to `who`, with names that are in use nowhere else."""
    blocks = re.findall(rf"```sql\n(-- {server}.*?)```", STORES, re.DOTALL)
    assert len(blocks) == 1
    lines = [line.rstrip(";") for line in blocks[0].splitlines() if line.endswith(f" TO {who};")]
    return [
        line.replace("app.", f"{schema}.").replace("SCHEMA app", f"SCHEMA {schema}")
        for line in lines
    ]


def use_everything(url: str) -> None:
    store = open_storage(url, time.time)
    now = int(time.time() * 1000)
    try:
        store.create("c", "k", b"v", now + 60_000, 1)
        store.update("c", "k", b"w", None, 2, expected=1)
        store.update_expiration("c", "k", now + 60_000)
        store.touch_context("c", now + 60_000)
        assert list(store.keys("c")) == ["k"]
        store.add_member("c", "k", "m", now - 1)
        store.remove_member("c", "k", "m")
        assert store.reap(10) == 1
        store.delete("c", "k", expected=2)
        store.delete_context("c")
        store.ping()
    finally:
        store.close()


def make_users(server: SQLServer, schema: str, create: str) -> Callable[[str], str]:
    """Makes both users; what gives the URL of one."""

    def url(who: str) -> str:
        found: str = server.url(schema, f"{who}_{schema}", PASSWORD)
        return f"{found}{'&' if '?' in found else '?'}{PREFIX}timeout=60"

    for who in ("migrator", "application"):
        server.ask(create.format(f"{who}_{schema}"))
    return url


USERS = {
    "PostgreSQL": "CREATE ROLE {} LOGIN PASSWORD '" + PASSWORD + "'",
    "MariaDB": "CREATE USER {} IDENTIFIED BY '" + PASSWORD + "'",
}


@pytest.mark.server
@pytest.mark.parametrize("name", USERS)
def test_the_rights_that_are_named_are_enough(
    name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    server: Any = request.getfixturevalue(f"{name.lower()}_server")
    schema = server.fresh_schema()
    url = make_users(server, schema, USERS[name])

    def grant(who: str) -> None:
        granted = rights(name, who, schema)
        assert granted
        for line in granted:
            server.ask(line.replace(f" TO {who}", f" TO {who}_{schema}"))

    grant("migrator")
    assert main(["store", "init", url("migrator")]) == 0
    assert main(["store", "check", url("application")]) == 1
    assert PASSWORD not in capsys.readouterr().err
    grant("application")
    use_everything(url("application"))

"""docs/ agrees with the code: generated tables, URLs, options, links, Python and rights."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from sealedstate import Deployment, Keeper, Key, Settings
from sealedstate._stored.parts import MAX_UNPROVEN
from sealedstate.cli import main
from sealedstate.deployment import open_store
from sealedstate.profiles import FLOOR_BYTES
from sealedstate.settings import _READERS
from sealedstate.storage import USES, RoutedStorage, SQLiteStorage, open_storage
from sealedstate.storage.requirements import CAVEATS, DECLARED, as_markdown
from sealedstate.storage.urls import OPTION_PREFIX, OPTIONS, URLS
from sealedstate.testing import FakeClock
from tests.support.asgi import ASGIBrowser
from tests.support.backends import use_everything
from tests.support.documents import DOCS, ROOT, Document
from tests.support.installed import need_driver
from tests.support.jar import Browser
from tests.support.sql_server import PASSWORD

README = Document("../README.md")
STORES = Document("stores.md")
SCHEMES = {url.partition(":")[0] for url in URLS}


# --- generated tables ---------------------------------------------------------------------------


def test_documented_matrix_of_stores_is_the_one_in_the_code() -> None:
    assert STORES.block("matrix: sealedstate store matrix --markdown") == as_markdown(DECLARED)


def test_documented_needs_of_each_use_are_those_in_the_code() -> None:
    documented = STORES.table("uses")
    assert list(documented) == list(USES)
    for title, use in USES.items():
        needs = "; ".join(need.requirement for need in use.needs)
        contexts = ", ".join(f"`{context}`" for context in use.contexts)
        assert documented[title] == [use.purpose, needs, contexts]


def test_table_has_every_setting_and_the_environment_can_give_it() -> None:
    injected = {"monotonic", "clock", "random", "environ"}
    settings = {item.name for item in fields(Settings)} - injected
    text = Document("settings.md").text
    table = text[text.index("| setting | default |") :].partition("\n\n")[0]
    rows = [row.split("|") for row in table.splitlines()[2:]]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row[1])} <= settings
    assert settings <= set(re.findall(r"`(\w+)`", table))
    assert set(_READERS) == settings


def test_documented_sign_in_remembers_a_user_who_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEALEDSTATE_KEK", Key.generate(os.urandom).export())
    toml = tmp_path / "app.toml"
    toml.write_text('[sealedstate]\nkeys = "file:keys.json"\nlongest_lifetime = 2592000\n')
    assert main(["keys", "init", "--config", str(toml)]) == 0
    names: dict[str, Any] = {"Settings": Settings}
    exec(compile(Document("settings.md").block("remember"), "settings.md", "exec"), names)
    with contextlib.closing(Deployment.open(names["settings"])) as deployment:
        for remember, days in ((True, 30), (False, 0.5)):
            browser = Browser(Keeper(deployment))
            before = time.time()
            sign_in = partial(names["sign_in"], user="ann", remember=remember)
            (line,) = browser.visit(sign_in)
            assert ("; Max-Age=" in line) == remember
            ends_at = browser.session().expires_at
            assert ends_at is not None
            assert int(before) <= ends_at - days * 86400 <= time.time()


# --- written by hand ----------------------------------------------------------------------------


def test_every_kind_of_url_and_every_option_is_explained() -> None:
    for url in URLS:
        assert f"| `{url.partition(':')[0]}:" in STORES.text
    for name in OPTIONS:
        assert f"| `{OPTION_PREFIX}{name}` |" in STORES.text


def test_every_url_of_an_example_opens(tmp_path: Path) -> None:
    need_driver("psycopg", "pymysql", "redis", "pymemcache", "botocore")
    found = re.findall(r"[`\"]((?:\w+:)?[\w+]+:(?:\d+:)?[/\w][^`\"\s]*)[`\"]", STORES.text)
    # Capitals are to be filled in, as in ``sqlite:PATH``.
    urls = [
        url
        for url in found
        if url.partition(":")[0] in SCHEMES
        and not re.search(r"\b[A-Z]{2,}\b", url)
        and not url.endswith("//")
    ]
    assert {url.partition(":")[0] for url in urls} >= SCHEMES - {"memory", "mariadb"}
    (tmp_path / "my.cnf").write_text("[client]\n")
    for url in urls:
        here = url.replace("/run/secrets/my.cnf", f"{tmp_path / 'my.cnf'}")  # which must exist
        open_storage(here, time.time).close()


def test_every_link_leads_to_a_document_and_a_heading() -> None:
    root = DOCS.parent
    documents = [*DOCS.rglob("*.md"), *root.glob("*.md")]
    for document in documents:
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text("utf-8")):
            path, _, heading = target.partition("#")
            linked = (document.parent / path) if path else document
            assert linked.exists(), f"{document.name}: {target}"
            if not heading:
                continue
            titles = re.findall(r"^#+ (.*)$", linked.read_text("utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in anchors, f"{document.name}: {target}"


def test_no_document_has_the_marks_of_a_merge() -> None:
    for path in (*DOCS.rglob("*.md"), *ROOT.glob("*.md")):
        assert not re.search(r"^(<{7}|>{7}|={7})( |$)", path.read_text("utf-8"), re.M), path


def test_every_promise_names_tests_that_exist() -> None:
    text = Document("promises.md").text
    table = text[text.index("| | promised | not promised |") :].partition("\n\n")[0]
    promises = table.splitlines()[2:]
    assert len(promises) > 20
    for promise in promises:
        comments = re.findall(r"<!-- (.*?) --> \|$", promise)
        assert comments, f"names no test: {promise}"
        for name in comments[0].split():
            path, _, function = name.partition("::")
            source = (DOCS.parent / path).read_text("utf-8")
            assert re.search(rf"^def {function}\(", source, re.MULTILINE), name
    assert f"at most {MAX_UNPROVEN:,} rows" in table
    assert f"by {FLOOR_BYTES} bytes" in table
    (release,) = re.findall(r"MariaDB since ([\d.]+)", table)
    assert f"from {release} on" in CAVEATS["mariadb"]
    assert f"Since {release} a crash" in STORES.text


def test_every_piece_of_python_compiles() -> None:
    for name in ["../README.md", *(path.name for path in DOCS.glob("*.md"))]:
        for code in Document(name).code("python"):
            compile(code, name, "exec")


@pytest.mark.parametrize(
    ("mark", "framework"),
    [("wsgi", ""), ("flask", "flask"), pytest.param("fastapi", "fastapi", marks=pytest.mark.slow)],
)
def test_lines_of_the_readme_make_an_application_with_sessions(
    mark: str, framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if framework:
        pytest.importorskip(framework, reason=f"not installed: {framework}")
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init", "keys.json"]) == 0
    if framework == "flask":  # which wants a ring for its permanent sessions
        monkeypatch.setenv("SEALEDSTATE_LONGEST_LIFETIME", "43200")
        monkeypatch.setenv("SEALEDSTATE_ABSOLUTE_LIFETIME", "43200")
    names: dict[str, Any] = {"__name__": mark}
    exec(compile(README.block(mark), "README.md", "exec"), names)
    if mark == "wsgi":
        client = Client(names["application"])
        pages = [client.get("/", base_url="https://localhost").text for _ in range(2)]
        assert pages == ["Visits: 1\n", "Visits: 2\n"]
    if mark == "fastapi":
        assert ASGIBrowser(names["app"]).get("/").status == 404


def test_every_page_is_in_the_contents_of_the_site() -> None:
    index = Document("index.md").text
    listed = " ".join(re.findall(r"```{toctree}(.*?)```", index, re.DOTALL)).split()
    assert {path.stem for path in DOCS.glob("*.md")} - {"index"} <= set(listed)


def test_readme_is_read_in_some_minutes() -> None:
    assert len(README.text.split()) <= 900


def test_documented_routing_can_be_read_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_driver("pymemcache")
    from sealedstate.storage.memcached import MemcachedStorage

    monkeypatch.chdir(tmp_path)
    found = re.search(r'SEALEDSTATE_STORAGE="(.*)"', STORES.block("split"))
    assert found is not None
    keys = Key.generate(os.urandom).export()
    routed = open_store(
        Settings.from_env({"SEALEDSTATE_STORAGE": found[1], "SEALEDSTATE_KEYS": keys})
    )
    assert isinstance(routed, RoutedStorage)
    assert routed.contexts == ["sealedstate.revoked", "sealedstate.watermark"]
    assert isinstance(routed.store_of("sealedstate.watermark"), SQLiteStorage)
    assert isinstance(routed.store_of("sealedstate.part"), MemcachedStorage)


def test_documented_typed_view_does_what_the_text_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    used, deletion, rest = STORES.block("objects").partition('carts.delete("jdoe")')
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


USERS = {
    "PostgreSQL": f"CREATE ROLE {{}} LOGIN PASSWORD '{PASSWORD}'",
    "MariaDB": f"CREATE USER {{}} IDENTIFIED BY '{PASSWORD}'",
}


@pytest.mark.server
@pytest.mark.parametrize("name", USERS)
def test_documented_rights_are_sufficient(
    name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    server: Any = request.getfixturevalue(f"{name.lower()}_server")
    schema = server.fresh_schema()
    (documented,) = re.findall(rf"```sql\n(-- {name}.*?)```", STORES.text, re.DOTALL)

    def url(who: str) -> str:
        found: str = server.url(schema, f"{who}_{schema}", PASSWORD)
        return f"{found}{'&' if '?' in found else '?'}{OPTION_PREFIX}timeout=60"

    def grant(who: str) -> None:
        granted = [line for line in documented.splitlines() if line.endswith(f" TO {who};")]
        assert granted
        for line in granted:
            line = line.replace("app.", f"{schema}.").replace("SCHEMA app", f"SCHEMA {schema}")
            server.ask(line.replace(f" TO {who};", f" TO {who}_{schema}"))

    for who in ("migrator", "application"):
        server.ask(USERS[name].format(f"{who}_{schema}"))
    grant("migrator")
    assert main(["store", "init", url("migrator")]) == 0
    assert main(["store", "check", url("application")]) == 1
    assert PASSWORD not in capsys.readouterr().err
    grant("application")
    clock = FakeClock()
    with contextlib.closing(open_storage(url("application"), clock)) as store:
        use_everything(store, clock)

"""The tables of docs/sso.md agree with the code, and its code runs in its order."""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from sealedstate import ConfigurationError, Session, Settings
from sealedstate.cli import main
from sealedstate.cli.sso import LOGOUT_SUPPORT, is_supported
from sealedstate.devices import SessionRegistry
from sealedstate.key_sources import StaticKeys
from sealedstate.sso import PERSISTENT, LogoutRequest, NameID, ServiceLogin
from sealedstate.storage import SQLiteStorage
from sealedstate.storage.requirements import DECLARED
from tests.support.documents import Document
from tests.support.identity_providers import (
    PASSWORD,
    SP,
    USER,
    Provider,
    User,
    a_login,
    identifiers,
    registry,
)
from tests.support.jar import RING

DOCUMENT = Document("sso.md")


# --- tables ---------------------------------------------------------------------------------------


def test_documented_matrix_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sso", "matrix"]) == 0
    assert DOCUMENT.block("matrix: sealedstate sso matrix") == capsys.readouterr().out.rstrip("\n")


@pytest.mark.parametrize("name", ["memory", "memcached", "redis, evicting", "cookie"])
def test_store_that_the_matrix_rules_out_stops_the_start(name: str) -> None:
    idp = Provider()
    store: Any = idp.store
    store.capabilities = DECLARED[name]
    assert not is_supported("back channel, derived identifiers", DECLARED[name])
    with pytest.raises(ConfigurationError):
        idp.node(accept_weak_store_for=["revocation"], indexed=False)


def test_only_the_front_channel_works_without_a_store() -> None:
    idp = Provider(storage=None, part_policies={}, indexed=False)
    working = [ability for ability in LOGOUT_SUPPORT if is_supported(ability, None)]
    assert working == ["front channel"]
    assert idp.signed_in(a_login(SP)).answer(idp.logout.begin).remaining
    assert not idp.logout.revokes


# What a service was given: its NameID and its SessionIndex, each derived or not.
GIVEN: dict[str, tuple[str, str | None]] = {
    "derived NameID and SessionIndex (`add_derived_login`)": ("derived", "derived"),
    "derived NameID, no SessionIndex": ("derived", None),
    "derived NameID, SessionIndex of your own": ("derived", "own"),
    "pairwise or own NameID, derived SessionIndex": ("own", "derived"),
    "pairwise or own NameID, own SessionIndex or none": ("own", "own"),
}


def enter(user: User, name: str, index: str | None) -> ServiceLogin:
    derived = user.node.records.identifiers
    assert derived is not None
    now, session = user.node.keeper.deployment.now(), user.session()
    assert session.subject == USER
    names = {"derived": derived.transient_name_id(session.id, SP, now), "own": "jdoe-at-wiki"}
    indexes = {"derived": derived.session_index(session.id, SP, now), "own": "_own", None: None}
    login = ServiceLogin(SP, PASSWORD, NameID(names[name], PERSISTENT), indexes[index], int(now))
    user.go(login)
    return login


def test_requests_lead_to_a_session_as_documented() -> None:
    rows = {}
    for title, (name, index) in GIVEN.items():
        rows[title] = cells = list[str]()
        for indexed, with_index in product((False, True), (True, False)):
            idp = Provider(indexed=indexed)
            login = enter(idp.signed_in(), name, index)
            if with_index and login.session_index is None:
                cells.append("–")
                continue
            indexes = (str(login.session_index),) if with_index else ()
            found = idp.logout.begin_for_request(LogoutRequest(SP, login.name_id, indexes))
            cells.append("found" if found else "no")
    assert DOCUMENT.table("requests") == rows


def test_identifier_key_leads_to_sessions_as_long_as_it_is_in_the_ring() -> None:
    idp = Provider(indexed=False)
    login = idp.signed_in().enter(SP)
    for ring, leads in ((identifiers(2, 1), True), (identifiers(2), False)):
        idp.records = type(idp.records)(registry(), ring)
        node = idp.node(indexed=False, part_policies={"l": "cookie"})
        assert bool(node.ask(login)) == leads


def test_documented_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    set_up, sign_in, front, answer, back, pending, listing = DOCUMENT.code("python")
    store = SQLiteStorage(tmp_path / "sessions.db", time.time)
    sent: list[str] = []

    def settings(**given: Any) -> Settings:
        if given["keys"] == "file:identifiers.json":
            assert given["absolute_lifetime"] == 129600
            return Settings(**given)
        assert given["storage"] == "sqlite:sessions.db"
        return Settings(**given | {"keys": StaticKeys(RING), "storage": store})

    def send(first: Any, *_: Any, **__: Any) -> bool:
        sent.append(getattr(first, "entity_id", first))
        return True

    # The document's files are not there: the ring of keys and the registry are the tests'.
    scope: dict[str, Any] = {"app": None, "send": send, "tell": send, "Settings": settings}
    scope |= {"load_registry": lambda _: registry(), "LogoutRequest": LogoutRequest}
    scope |= {"NameID": NameID, "name": "mail-name", "entity_id": "https://mail.example.org"}
    set_up = set_up.replace("from sealedstate import Settings\n", "")
    config = next(code for code in DOCUMENT.code("toml") if "# identifiers.toml" in code)
    Path("identifiers.toml").write_text(config, "utf-8")
    assert main(["keys", "init", "--config", "identifiers.toml"]) == 0
    exec(set_up.replace("    load_registry,\n", ""), scope)
    assert scope["PASSWORD"] == PASSWORD

    def sign_in_again() -> Session:
        session: Session = scope["keeper"].session()
        session.subject = "jdoe"
        exec(sign_in, scope | {"session": session})
        login = scope["records"].for_session(session)
        login.add_service(a_login("https://mail.example.org", "mail-name", "_5f3a"))
        cookies = [line.split(";")[0] for line in scope["keeper"].save(session)]
        reopened: Session = scope["keeper"].session("; ".join(cookies))
        return reopened

    local = scope | {"session": sign_in_again()}
    exec(front, local)
    progress = local["progress"]
    first, second = (notice.entity_id for notice in progress)
    assert sent == [first]
    exec(answer, local | {"relay_state": progress.token, "answered": first, "refused": second})
    (failed,) = scope["logout"].resume(progress.token).failures
    assert failed.entity_id == second

    scope["registry"] = SessionRegistry(scope["keeper"])
    session = sign_in_again()
    assert len(scope["registry"].list("jdoe")) == 1
    exec(listing.split("\n", 1)[1], scope)
    exec(back, scope)
    assert sent[-1] == "https://wiki.example.org/saml"
    assert session.subject is None
    local = scope | {"session": session}
    exec(pending, local)
    assert local["progress"] is None

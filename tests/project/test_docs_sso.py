"""docs/sso.md: its tables are what the code does, and its code runs, in its order.

Knows how the document marks what is generated.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from sealedstate import ConfigurationError, Settings
from sealedstate.cli import main
from sealedstate.cli.sso import LOGOUT_SUPPORT, is_supported
from sealedstate.key_sources import StaticKeys
from sealedstate.sso import PERSISTENT, LogoutRequest, NameID, ServiceLogin, SingleLogout
from sealedstate.sso.identifiers import Identifiers
from sealedstate.storage import SQLiteStorage
from sealedstate.storage.requirements import DECLARED
from tests.support.identity_providers import PASSWORD, USER, Provider, a_login
from tests.support.jar import RING
from tests.support.login_makers import SP, identifiers, registry

DOCUMENT = (Path(__file__).parents[2] / "docs" / "sso.md").read_text("utf-8")


def between(mark: str) -> str:
    name = re.escape(mark.split(":")[0])
    found = re.search(rf"<!-- {re.escape(mark)} -->\n(.*?)\n?<!-- /{name} -->", DOCUMENT, re.DOTALL)
    assert found is not None
    return found[1]


# --- tables ---------------------------------------------------------------------------------------


def test_what_works_with_which_store_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["sso", "matrix"]) == 0
    assert between("matrix: sealedstate sso matrix") == capsys.readouterr().out.rstrip("\n")


@pytest.mark.parametrize("name", ["memory", "memcached", "redis, evicting", "cookie"])
def test_what_does_not_work_with_a_store_stops_the_start(name: str) -> None:
    idp = Provider()
    store: Any = idp.store
    store.capabilities = DECLARED[name]
    assert not is_supported("back channel, derived identifiers", DECLARED[name])
    with pytest.raises(ConfigurationError):
        idp.node(accept_weak_store_for=["revocation"], indexed=False)


def test_without_a_store_only_the_front_channel_works() -> None:
    idp = Provider(storage=None, part_policies={}, indexed=False)
    working = [ability for ability in LOGOUT_SUPPORT if is_supported(ability, None)]
    assert working == ["front channel"]
    assert idp.signed_in(a_login(SP)).answer(idp.logout.begin).remaining
    assert not idp.logout.revokes


GIVEN: dict[str, Callable[[Identifiers, Any], ServiceLogin]] = {
    "derived NameID and SessionIndex (`enter`)": lambda made, user: user.enter(SP),
    "derived NameID, no SessionIndex": lambda made, user: _went(user, made, "name", None),
    "derived NameID, SessionIndex of your own": lambda made, user: _went(user, made, "name", "own"),
    "pairwise or own NameID, derived SessionIndex": lambda made, user: _went(
        user, made, "own", "index"
    ),
    "pairwise or own NameID, own SessionIndex or none": lambda made, user: _went(
        user, made, "own", "own"
    ),
}


def _went(user: Any, made: Identifiers, name: str, index: str | None) -> ServiceLogin:
    now = user.node.keeper.deployment.now()
    session = user.session()
    assert session.subject == USER
    names = {"name": made.transient_name_id(session.raw_id, SP, now), "own": "jdoe-at-wiki"}
    indexes = {"index": made.session_index(session.raw_id, SP, now), "own": "_own", None: None}
    login = ServiceLogin(SP, PASSWORD, NameID(names[name], PERSISTENT), indexes[index], int(now))
    user.go(login)
    return login


def test_which_requests_lead_to_a_session_is_what_happens() -> None:
    head = ["the service was given", "asks with SessionIndex", "asks without"]
    columns = [f"{title}, {how}" for how in ("no index", "index") for title in head[1:]]
    lines = ["| " + " | ".join([head[0], *columns]) + " |", "|---" * 5 + "|"]
    for given, go in GIVEN.items():
        cells = []
        for indexed, with_index in product((False, True), (True, False)):
            idp = Provider(indexed=indexed)
            made = idp.records.identifiers
            assert made is not None
            login = go(made, idp.signed_in())
            if with_index and login.session_index is None:
                cells.append("–")
                continue
            indexes = (str(login.session_index),) if with_index else ()
            found = idp.logout.begin_by_request(LogoutRequest(SP, login.name_id, indexes))
            cells.append("found" if found else "no")
        lines.append("| " + " | ".join([given, *cells]) + " |")
    assert between("requests") == "\n".join(lines)


# --- code -----------------------------------------------------------------------------------------


class Sent(list[tuple[Any, ...]]):
    """Stands for an identity provider's messages."""

    def __call__(self, *what: Any, **more: Any) -> bool:
        self.append((*what, more))
        return True


def test_the_code_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    setting_up, signing_in, *rest = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    front, answer, back, owed, listing = rest
    sent = Sent()
    store = SQLiteStorage(tmp_path / "sessions.db", time.time)

    def with_keys(**given: Any) -> Settings:
        if given["keys"] == "file:identifiers.json":
            assert given["absolute_lifetime"] == 129600
            return Settings(**given)
        assert given["storage"] == "sqlite:sessions.db"
        return Settings(**given | {"keys": StaticKeys(RING), "storage": store})

    scope: dict[str, Any] = {
        "app": None,
        "time": time,
        "send": sent,
        "tell": sent,
    }
    setting_up = setting_up.replace("from sealedstate import Settings\n", "")
    setting_up = setting_up.replace("    load_registry,\n", "")
    scope |= {"Settings": with_keys, "load_registry": lambda _: registry()}
    (config,) = re.findall(r"```toml\n# identifiers.toml\n(.*?)```", DOCUMENT, re.DOTALL)
    Path("identifiers.toml").write_text(config, "utf-8")
    assert main(["keys", "init", "--config", "identifiers.toml"]) == 0
    exec(setting_up, scope)
    logout = scope["logout"]
    assert isinstance(logout, SingleLogout)
    assert scope["PASSWORD"] == PASSWORD

    def signed_in() -> Any:
        session = scope["keeper"].session()
        session.subject = "jdoe"
        exec(signing_in, scope | {"session": session, "records": scope["records"]})
        login = scope["records"].of(session, time.time())
        login.add_service(a_login("https://mail.example.org", "mail-name", "_5f3a"))
        lines = scope["keeper"].save(session)
        cookie = "; ".join(line.split(";")[0] for line in lines)
        return scope["keeper"].session(cookie)

    local = scope | {"session": signed_in()}
    exec(front, local)
    assert len(sent) == 1
    assert len(local["progress"].remaining) == 2
    first, second = local["progress"].remaining
    local |= {
        "relay_state": local["progress"].token,
        "answered": first.entity_id,
        "refused": second.entity_id,
    }
    exec(answer, local)
    assert (local["progress"].complete, local["progress"].partial) == (True, True)

    exec("registry = SessionRegistry(keeper)", scope)
    session = signed_in()
    assert len(scope["registry"].list("jdoe")) == 1
    exec(listing.split("\n", 1)[1], scope)
    names = {"LogoutRequest": LogoutRequest, "NameID": NameID, "name": "mail-name"}
    exec(back, scope | names | {"entity_id": "https://mail.example.org"})
    assert sent[-1][0].entity_id == "https://wiki.example.org/saml"
    assert session.subject is None
    local = scope | {"session": session}
    exec(owed, local)
    assert local["progress"] is None


def test_what_is_said_of_identifier_keys_is_so() -> None:
    idp = Provider(indexed=False)
    user = idp.signed_in()
    login = user.enter(SP)
    request = LogoutRequest(SP, login.name_id)
    for ring, leads in ((identifiers(2, 1), True), (identifiers(2), False)):
        idp.records = type(idp.records)(registry(), ring)
        node = idp.node(indexed=False, part_policies={"l": "cookie"})
        assert bool(node.logout.begin_by_request(request)) == leads

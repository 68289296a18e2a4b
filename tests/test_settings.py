"""Settings are checked when they are made, and a mistake is refused with its remedy."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sealedstate import ConfigurationError, Key, LegacyReader, Profile, Settings
from sealedstate._wire.record import Lifetimes, Policy
from sealedstate.deployment import Deployment, open_keys, open_store
from sealedstate.keyring import export_lookup
from sealedstate.storage import MemoryStorage, RoutedStorage, SQLiteStorage

KEY = Key.generate(os.urandom).export()


def settings(**given: Any) -> Settings:
    return Settings(**{"keys": [KEY]} | given)


def refusal(**given: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Deployment.open(settings(**given))
    return str(caught.value)


def test_unknown_setting_is_reported_with_the_nearest_name(tmp_path: Path) -> None:
    message = refusal(idle_lifetim=60)
    assert "'idle_lifetim'" in message
    assert "'idle_lifetime'" in message
    assert "absolute_lifetime" in refusal(xyzzy=1)
    file = tmp_path / "app.toml"
    file.write_text(f'[sealedstate]\nkeys = ["{KEY}"]\nprofil = "tight"\n')
    with pytest.raises(ConfigurationError, match="'profil'; did you mean 'profile'"):
        Settings.from_toml(file)

    with pytest.raises(
        ConfigurationError, match=r"SEALEDSTATE_STORAG'; did you mean 'SEALEDSTATE_STORAGE'"
    ):
        Settings.from_env({"SEALEDSTATE_STORAG": "memory:"})


def test_toml_file_has_every_kind_of_setting(tmp_path: Path) -> None:
    file = tmp_path / "app.toml"
    file.write_text(
        f"""
        [sealedstate]
        keys = ["{KEY}@2026-01-01T00:00:00Z"]
        storage = "sqlite:{tmp_path / "s.db"}"
        realm = "shop"
        idle_lifetime = 600
        accept_weak_store_for = ["revocation"]
        absolute_lifetime = 3600
        spill_order = ["services", "cart"]
        cookie_name = "__Host-shop"
        persistent = true
        [sealedstate.part_policies]
        cart = "server"
        flash = "cookie"
        [sealedstate.profile]
        cookies = 2
        cookie_bytes = 1000
        total_bytes = 1800
        header_bytes = 4000
        response_bytes = 2500
        [sealedstate.legacy]
        kind = "flask"
        secret = "x"
        until = "2027-01-01T00:00:00Z"
        """
    )
    found = Settings.from_toml(file)
    assert found.policies() == {"cart": Policy.SERVER, "flash": Policy.COOKIE}
    assert found.budget_profile() == Profile("custom", 2, 1000, 1800, 4000, 2500)
    assert isinstance(open_store(found), SQLiteStorage)
    assert isinstance(found.legacy, LegacyReader)
    assert found.lifetimes() == Lifetimes(600, 3600, 60, 3600)
    assert found.cookie_family().name == "__Host-shop"
    assert found.accept_weak_store_for == ["revocation"]
    assert open_keys(found).keyring().keys[0].activates_at == 1767225600


def test_keywords_override_a_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "app.toml"
    file.write_text(f'keys = ["{KEY}"]\nrealm = "file"\n')
    assert Settings.from_toml(file, realm="keyword").realm == "keyword"


@pytest.mark.parametrize("text", ["[sealedstate", "sealedstate = 3\n", "\xff"])
def test_invalid_toml_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "app.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"app\.toml"):
        Settings.from_toml(file)


def test_environment_has_every_setting_that_is_text() -> None:
    found = Settings.from_env(
        {
            "SEALEDSTATE_KEYS": f"{KEY} {export_lookup(os.urandom(32))}",
            "SEALEDSTATE_STORAGE": "memory:",
            "SEALEDSTATE_PROFILE": "roomy",
            "SEALEDSTATE_IDLE_LIFETIME": "60",
            "SEALEDSTATE_PART_POLICIES": "cart=server flash=cookie",
            "SEALEDSTATE_SPILL_ORDER": "services cart",
            "SEALEDSTATE_SECURE": "false",
            "SEALEDSTATE_ACCEPT_WEAK_STORE_FOR": "revocation, spilling",
            "PATH": "/bin",
        }
    )
    assert isinstance(open_store(found), MemoryStorage)
    assert found.budget_profile().name == "roomy"
    assert found.lifetimes().idle == 60
    assert found.policies() == {"cart": Policy.SERVER, "flash": Policy.COOKIE}
    assert found.spill_order == ["services", "cart"]
    assert found.accept_weak_store_for == ["revocation", "spilling"]
    assert found.cookie_family().name == "s"
    assert open_keys(found).keyring().lookup is not None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("IDLE_LIFETIME", "soon"),
        ("SECURE", "perhaps"),
        ("PART_POLICIES", "cart"),
        pytest.param("SKEW", KEY, id="a key in the wrong variable"),
    ],
)
def test_invalid_variable_is_named_and_its_value_is_not_repeated(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({"SEALEDSTATE_KEYS": KEY, f"SEALEDSTATE_{name}": text})
    assert f"SEALEDSTATE_{name}" in str(caught.value)
    assert text not in str(caught.value)


def test_keys_come_from_the_environment_by_default() -> None:
    found = Settings(environ={"SEALEDSTATE_KEYS": KEY})
    assert open_keys(found).keyring().keys[0].export() == KEY


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"profile": "portabel"}, "'portable'"),
        ({"storage": "postgres:"}, "sqlite:PATH"),
        ({"storage": object()}, "storage"),
        ({"idle_lifetime": 0}, "idle_lifetime"),
        ({"idle_lifetime": 7200, "absolute_lifetime": 3600}, "absolute_lifetime"),
        ({"absolute_lifetime": 401 * 86400}, "400 days"),
        ({"idle_lifetime": 60, "refresh_after": 60}, "refresh_after"),
        ({"idle_lifetime": "60"}, "idle_lifetime: expected int"),
        ({"idle_lifetime": True}, "idle_lifetime: expected int"),
        ({"secure": 1}, "secure: expected bool"),
        ({"spill_order": "services"}, "spill_order"),
        ({"accept_weak_store_for": "revocation"}, "accept_weak_store_for: must be a list"),
        ({"accept_weak_store_for": 1}, "accept_weak_store_for: expected Sequence"),
        ({"accept_weak_store_for": ["revokation"]}, "'revokation'; did you mean 'revocation'?"),
        ({"accept_weak_store_for": ["revocation", "xyzzy"]}, "'xyzzy'; there are"),
        ({"accept_weak_store_for": [["revocation"]]}, "accept_weak_store_for"),
        ({"part_policies": {"cart": "disk"}}, "'server'"),
        ({"part_policies": {"cart": "server"}}, "set storage"),
        ({"clock": 1}, "clock: must be a function"),
        ({"storage": {"*": 3}}, "storage: a table"),
        ({"storage": "sqlite:\0"}, "storage: sqlite:PATH"),
        ({"profile": KEY}, "profile"),
        ({"cookie_name": KEY}, "cookie_name"),
        ({"keys": f"file:{KEY}"}, "cannot be read"),
        ({"keys": f"env:{KEY}"}, "env"),
        ({KEY: 1}, "setting"),
        ({"skew": -1}, "skew"),
        ({"announce": -1}, "announce"),
        ({"rotate_every": 0}, "rotate_every"),
        ({"reload_every": 0}, "reload_every"),
        ({"reload_every": -1}, "reload_every"),
        ({"secure": False, "cookie_name": "__Host-Http-s"}, "__Host-"),
        ({"cookie_domain": "example.org", "cookie_name": "__Host-Http-s"}, "cookie_domain"),
        ({"cookie_name": "a b"}, "cookie_name"),
        ({"cookie_path": "/;x"}, "cookie_path"),
        ({"same_site": "lax"}, "Lax"),
        ({"same_site": "None", "secure": False}, "secure"),
        ({"keys": ""}, "keys"),
        ({"keys": []}, "no key"),
    ],
)
def test_invalid_value_is_refused_at_the_start(given: dict[str, Any], names: str) -> None:
    message = refusal(**given)
    assert names in message
    assert KEY.rpartition(":")[2] not in message


def test_cookie_prefix_is_dropped_if_browsers_would_refuse_it() -> None:
    assert settings().cookie_family().name == "__Host-Http-s"
    assert settings(cookie_path="/app").cookie_family().name == "s"
    assert settings(cookie_domain="example.org").cookie_family().name == "s"
    assert settings(secure=False).cookie_family().name == "s"


def test_ring_without_an_active_key_is_refused() -> None:
    assert "active" in refusal(keys=[f"{KEY}@2999-01-01T00:00:00Z"])


@pytest.mark.parametrize(
    "given",
    [
        {"merge": {"cart": "union"}},
        {"spill_order": [1]},
        {"realm": "\ud800"},
        {
            "cookie_name": "session",
            "legacy": LegacyReader("flask", "x", datetime(2999, 1, 1, tzinfo=UTC)),
        },
    ],
)
def test_value_that_would_fail_a_request_is_refused_at_the_start(given: dict[str, Any]) -> None:
    assert next(iter(given)) in refusal(**given)


@pytest.mark.parametrize("until", ['"soon"', "2027-01-01", "2027-01-01T00:00:00"])
def test_legacy_table_needs_a_date_and_time_with_a_zone(tmp_path: Path, until: str) -> None:
    file = tmp_path / "app.toml"
    file.write_text(f'keys = ["{KEY}"]\n[legacy]\nkind = "flask"\nsecret = "x"\nuntil = {until}\n')
    with pytest.raises(ConfigurationError, match="legacy"):
        Settings.from_toml(file)


def test_contexts_may_have_separate_stores(tmp_path: Path) -> None:
    found = settings(storage={"*": f"sqlite:{tmp_path / 's'}", "sealedstate.revoked": "memory:"})
    assert isinstance(open_store(found), RoutedStorage)

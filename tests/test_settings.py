"""Settings are checked when they are made, and a mistake is refused with its remedy."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sealedstate import ConfigurationError, Key, LegacyReader, Profile, SealedStateError, Settings
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
        ({"storage": "oracle:"}, "sqlite:PATH"),
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
        ({"storage": "sqlite:\0"}, "storage: there is an invisible character, U+0000"),
        ({"profile": KEY}, "profile"),
        ({"cookie_name": KEY}, "cookie_name"),
        ({"keys": f"file:{KEY}"}, "expected the path of a file"),
        ({"keys": f"env:{KEY}"}, "the name of a variable"),
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


def test_ring_without_an_active_key_is_refused_with_the_dates_and_the_clock() -> None:
    for given in (
        {"keys": [f"{KEY}@2999-01-01T00:00:00Z"]},
        {"keys": [f"{KEY}@2026-01-01T00:00:00Z"], "clock": lambda: 0.0},
    ):
        message = refusal(**given)
        assert "no key is active; check the activation and expiry dates, and the clock" in message
    assert "which says 1970-01-01T00:00:00Z" in message


class BadSource:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def keyring(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_key_source_that_gives_no_keyring_stops_the_start() -> None:
    for answer, problem in (
        (None, "got NoneType"),
        (KEY, "got str"),
        (OSError(f"vault\x1b[31m {KEY}"), "OSError: vault"),
    ):
        message = refusal(keys=BadSource(answer))
        assert message.startswith("keys: the key source ")
        assert problem in message
        assert message.isprintable()
        assert KEY not in message


def test_number_too_long_to_print_is_refused_as_any_other() -> None:
    huge = 10**5000
    for name in (
        "idle_lifetime",
        "absolute_lifetime",
        "longest_lifetime",
        "refresh_after",
        "skew",
        "announce",
        "rotate_every",
        "reload_every",
    ):
        for number in (huge, -huge):
            assert "digits" in refusal(**{name: number})
    with pytest.raises(ConfigurationError, match="digits"):
        Profile("own", huge, 2000, 2000, 2800, 2400)
    with (
        closing(Deployment.open(settings())) as deployment,
        pytest.raises(ConfigurationError, match="digits"),
    ):
        deployment.protector("reset", max_age=huge)


def test_number_too_long_to_read_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "app.toml"
    path.write_text(f"idle_lifetime = {'9' * 5000}")
    with pytest.raises(ConfigurationError, match=f"{path}: .*digits"):
        Settings.from_toml(path)


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


# --- variables as shells, Docker and Kubernetes give them -----------------------------------------


def from_env(**variables: str) -> Settings:
    keys = {} if {"KEYS", "KEYS_FILE"} & set(variables) else {"SEALEDSTATE_KEYS": KEY}
    return Settings.from_env(keys | {f"SEALEDSTATE_{x}": text for x, text in variables.items()})


def refused_variable(name: str, text: str, **given: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Deployment.open(from_env(**{name: text}) if not given else env_with(name, text, given))
    return str(caught.value)


TEXTS = {
    "KEYS": KEY,
    "STORAGE": "memory:",
    "REALM": "shop",
    "PROFILE": "tight",
    "IDLE_LIFETIME": "60",
    "PART_POLICIES": "cart=auto",
    "SPILL_ORDER": "cart",
    "COOKIE_NAME": "s",
    "SECURE": "yes",
    "SAME_SITE": "Strict",
    "ACCEPT_WEAK_STORE_FOR": "revocation",
}


@pytest.mark.parametrize("name", TEXTS)
def test_blanks_line_ends_and_a_byte_order_mark_around_a_variable_do_not_count(name: str) -> None:
    expected = from_env(**TEXTS)
    for text in (f"{TEXTS[name]}\n", f"  {TEXTS[name]}\r\n", f"\ufeff{TEXTS[name]}"):
        found = from_env(**TEXTS | {name: text})
        assert repr(found) == repr(expected)
        assert type(open_store(found)) is MemoryStorage
        assert open_keys(found).keyring() == open_keys(expected).keyring()


@pytest.mark.parametrize("name", TEXTS)
def test_quotes_and_an_empty_text_are_refused_with_the_variable(name: str) -> None:
    for text in (f'"{TEXTS[name]}"', f"'{TEXTS[name]}'", f'"{TEXTS[name]}'):
        message = refused_variable(name, text)
        assert message.startswith(f"SEALEDSTATE_{name}: is in quotes")
        assert KEY not in message
    assert refused_variable(name, " \n").startswith(f"SEALEDSTATE_{name}: is empty")


@pytest.mark.parametrize("name", ["STORAGE", "REALM", "COOKIE_PATH"])
def test_invisible_character_in_a_value_is_refused(name: str) -> None:
    value = {"STORAGE": "sqlite:/tmp/a\nb", "REALM": "sh\u200bop", "COOKIE_PATH": "/a\x00"}[name]
    message = refused_variable(name, value)
    assert message.startswith(f"SEALEDSTATE_{name}: ")
    assert message.isprintable()
    for bad in ("shop ", "\tshop", "shop\n", "sh\nop", "\u202eshop"):
        assert "realm: there is a" in refusal(realm=bad)
        assert "spill_order: there is a" in refusal(spill_order=[bad])
        assert "part_policies: there is a" in refusal(part_policies={bad: "auto"})
    for storage in ("sqlite:/d/s.db\n", {"*": "memory:\n"}):
        assert "storage: there is a blank or a line end" in refusal(storage=storage)


def test_service_links_of_kubernetes_and_docker_are_ignored() -> None:
    links = {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "8080",
        "SERVICE_PORT_HTTP": "8080",
        "PORT": "tcp://10.0.0.1:8080",
        "PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "PORT_8080_TCP_ADDR": "10.0.0.1",
        "PORT_8080_TCP_PORT": "8080",
        "PORT_8080_TCP_PROTO": "tcp",
        "PORT_53_UDP": "udp://10.0.0.1:53",
        "REDIS_SERVICE_HOST": "10.0.0.2",
        "REDIS_PORT": "tcp://10.0.0.2:6379",
        "REDIS_PORT_6379_TCP_ADDR": "10.0.0.2",
    }
    assert repr(from_env(**links)) == repr(from_env())


@pytest.mark.parametrize("name", ["PORT", "LOG_LEVEL", "DEBUG", "X", "DATABASE_URL", "SETTINGS"])
def test_other_variable_with_the_prefix_is_refused_with_the_remedy(name: str) -> None:
    message = refused_variable(name, "8080")
    assert f"'SEALEDSTATE_{name}'" in message
    assert "did you mean" not in message
    assert "give yours another name" in message
    assert "did you mean 'SEALEDSTATE_PROFILE'?" in refused_variable("PROFIL", "tight")
    assert "did you mean 'SEALEDSTATE_KEK_FILE'?" in refused_variable("KEKFILE", "x")


def test_error_of_a_value_names_its_variable_or_its_file(tmp_path: Path) -> None:
    for name, text in (
        ("PROFILE", "portabel"),
        ("IDLE_LIFETIME", "2h"),
        ("IDLE_LIFETIME", "0x10"),
        ("SECURE", "maybe"),
        ("PART_POLICIES", "cart=auto cart=server"),
        ("COOKIE_DOMAIN", "https://example.org"),
        ("STORAGE", "nonsense:x"),
        ("STORAGE", "*=memory: cart"),
        ("KEYS", "nonsense"),
    ):
        assert refused_variable(name, text).startswith(f"SEALEDSTATE_{name}"), name
    file = tmp_path / "app.toml"
    file.write_text(f'keys = ["{KEY}"]\nprofile = "portabel"\n')
    with pytest.raises(ConfigurationError, match=r"app\.toml: profile: there is no 'portabel'"):
        Settings.from_toml(file)
    with pytest.raises(ConfigurationError, match=r"^profile: "):
        Settings.from_toml(file, profile="tite")


# --- TOML -----------------------------------------------------------------------------------------


def refused_toml(folder: Path, lines: str) -> str:
    file = folder / "app.toml"
    file.write_text(f'[sealedstate]\nkeys = ["{KEY}"]\n{lines}\n')
    with pytest.raises(ConfigurationError) as caught:
        Deployment.open(Settings.from_toml(file))
    return str(caught.value)


CODE_ONLY = ("clock", "monotonic", "random", "environ", "merge", "observers")


@pytest.mark.parametrize("name", CODE_ONLY)
def test_setting_that_a_file_cannot_contain_is_refused_and_not_offered(
    name: str, tmp_path: Path
) -> None:
    for value in ("5", '"x"', "[]", "{ a = 1 }"):
        assert f"{name}: a file cannot contain" in refused_toml(tmp_path, f"{name} = {value}")
    message = refused_toml(tmp_path, "xyzzy = 1")
    assert name not in message.split()
    assert f" {name}," not in message


@pytest.mark.parametrize("name", [x for x in Settings.__dataclass_fields__ if x not in CODE_ONLY])
def test_toml_value_of_a_wrong_type_is_a_configuration_error(name: str, tmp_path: Path) -> None:
    wrong = ["2026-01-01", "2026-01-01T00:00:00Z", "1.5", "nan", "[[1]]", "{ a = { b = 1 } }"]
    for value in [*wrong, "-1", "[1]", "{ a = 1 }", "[{ a = 1 }]", str(10**30)]:
        if name == "keys":
            file = tmp_path / "app.toml"
            file.write_text(f"keys = {value}\n")
            with pytest.raises(ConfigurationError, match="keys"):
                Deployment.open(Settings.from_toml(file))
        else:
            assert name.split("_")[-1] in refused_toml(tmp_path, f"{name} = {value}")


@pytest.mark.parametrize(
    "lines",
    [
        '[sealedstate.storage]\n"*" = 7',
        "[sealedstate.profile]\ncookies = 1.5\ncookie_bytes = 1000",
        "[sealedstate.profile]\nname = 5",
        '[sealedstate.part_policies]\ncart = ["server"]',
        '[sealedstate.part_policies.cart]\npolicy = "server"',
        '[sealedstate.legacy]\nkind = ["flask"]\nsecret = "x"\nuntil = 2027-01-01T00:00:00Z',
        '[sealedstate.legacy]\nkind = "flask"\nsecret = "x"\nuntil = 2027-01-01T00:00:00Z\n'
        "cookie_name = 5",
        '[sealedstate.legacy]\nkind = "flask"\nsecret = "x"\nuntil = 2027-01-01T00:00:00Z\n'
        'cookie_domain = "example.org:80"',
    ],
)
def test_nested_toml_value_of_a_wrong_type_is_a_configuration_error(
    lines: str, tmp_path: Path
) -> None:
    assert lines.partition("\n")[0].strip("[]").split(".")[1] in refused_toml(tmp_path, lines)


def test_toml_file_of_windows_is_read(tmp_path: Path) -> None:
    file = tmp_path / "app.toml"
    file.write_bytes(b"\xef\xbb\xbf" + f'realm = "shop"\r\nkeys = ["{KEY}"]\r\n'.encode())
    assert Settings.from_toml(file).realm == "shop"


@pytest.mark.parametrize(
    "given", [{"environ": "x"}, {"environ": None}, {"clock": 5}, {"merge": []}, {"observers": 1}]
)
def test_keyword_of_a_wrong_type_is_a_configuration_error(given: dict[str, Any]) -> None:
    assert next(iter(given)) in refusal(**given)


# --- secrets in files -----------------------------------------------------------------------------


def secret_file(folder: Path, text: str) -> str:
    path = folder / "secret"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def test_keys_and_storage_may_be_in_files_that_variables_name(tmp_path: Path) -> None:
    keys = secret_file(tmp_path, f"# the keys\n{KEY}\n")
    found = from_env(KEYS_FILE=f"{keys}\n")
    assert open_keys(found).keyring().keys[0].export() == KEY
    given = Settings(environ={"SEALEDSTATE_KEYS_FILE": keys})  # keys="env:", as in a quickstart
    assert open_keys(given).keyring().keys[0].export() == KEY
    for text in (f"file:{keys}", f" file:{keys}\n"):
        given = Settings(environ={"SEALEDSTATE_KEYS": text})
        assert open_keys(given).keyring().keys[0].export() == KEY
    given = Settings(keys="env:OURS", environ={"OURS_FILE": keys})
    assert open_keys(given).keyring().keys[0].export() == KEY


@pytest.mark.parametrize("text", ["memory:", "memory:\n", "\ufeffmemory:\r\n"])
def test_url_of_a_store_may_be_in_a_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "url"
    path.write_text(text, "utf-8")
    for given in (
        from_env(STORAGE_FILE=str(path)),
        from_env(STORAGE=f"file:{path}"),
        settings(storage=f"file:{path}"),
        settings(storage="env:OURS", environ={"OURS": text}),
        settings(storage="env:OURS", environ={"OURS_FILE": str(path)}),
    ):
        assert type(open_store(given)) is MemoryStorage
    routed = open_store(settings(storage={"*": f"file:{path}", "sealedstate.revoked": "memory:"}))
    assert isinstance(routed, RoutedStorage)
    path.write_text("*=memory:\nsealedstate.revoked=memory:\n")
    assert isinstance(open_store(settings(storage=f"file:{path}")), RoutedStorage)


def test_error_of_a_store_in_a_file_names_the_file_and_never_the_url(tmp_path: Path) -> None:
    path = tmp_path / "url"
    for text in ("nonsense://u:canary@h", "sqlite:x\nsqlite:canary", "", '"memory:"', "file:/x"):
        path.write_text(text)
        for given in (f"file:{path}", {"*": f"file:{path}"}):
            message = refusal(storage=given)
            assert message.startswith("storage: "), text
            assert "canary" not in message
    for where in ("missing", "."):
        assert f"{tmp_path / where}" in refusal(storage=f"file:{tmp_path / where}")
    message = refused_variable("STORAGE_FILE", "redis://:canary@h")  # the URL instead of a path
    assert message.startswith("SEALEDSTATE_STORAGE_FILE: the file ")
    assert "canary" not in message
    assert "'OURS' is not set" in refusal(storage="env:OURS", environ={})


def test_file_that_a_variable_names_may_name_the_source_of_the_keys(tmp_path: Path) -> None:
    keys, named = tmp_path / "keys", tmp_path / "named"
    keys.write_text(KEY)
    store = {"storage": f"sqlite:{tmp_path / 's'}", "rotate_in_process": False}
    for text, given in ((f"file:{keys}\n", {}), ("store:\n", store)):
        named.write_text(text)
        named.chmod(0o600)
        environ = {"SEALEDSTATE_KEYS_FILE": str(named), "SEALEDSTATE_KEK": KEY}
        with closing(Deployment.open(Settings.from_env(environ, **given))) as deployment:
            assert deployment.keyring().primary(int(deployment.now()))


def test_every_fault_of_a_file_names_its_variable_the_file_and_a_remedy(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    contents = {"empty": b"", "blank": b" \n", "quoted": b'"x"\n', "text": b"\xff\xfe", "bad": b"x"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    store = {"storage": f"sqlite:{tmp_path / 's'}", "keys": "store:"}
    for variable, given in (("KEYS", {}), ("STORAGE", {"keys": [KEY]}), ("KEK", store)):
        for name in (*contents, "pipe", ".", "missing"):
            path = tmp_path / name
            message = refused_variable(f"{variable}_FILE", str(path), **given)
            assert message.startswith(f"SEALEDSTATE_{variable}_FILE: "), message
            if not (variable == "STORAGE" and name == "bad"):
                assert f"the file {path}" in message
            assert any(word in message for word in REMEDIES), message
            assert "remove the variable" not in message
    message = refused_variable("KEYS", f"file:{tmp_path / 'missing'}")
    assert message.startswith(f"SEALEDSTATE_KEYS: the file {tmp_path / 'missing'} cannot be read")


def env_with(name: str, text: str, given: dict[str, Any]) -> Settings:
    return Settings.from_env({f"SEALEDSTATE_{name}": text}, **given)


REMEDIES = (
    "name ",
    "write ",
    "remove ",
    "save it",
    "`sealedstate keys generate",
    "expected ",
    "one of",
)


@pytest.mark.parametrize(
    "line",
    ["keys = 5", "keys = [1]", "keys = {a = 1}", "storage = 5", 'storage = {"*" = 5}'],
)
def test_source_of_a_wrong_type_names_the_file_of_the_settings(line: str, tmp_path: Path) -> None:
    path = tmp_path / "app.toml"
    path.write_text(line)
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_toml(path)
    assert str(caught.value).startswith(f"{path}: {line.partition(' ')[0]}: ")


@pytest.mark.parametrize("name", ["KEYS", "STORAGE", "KEK"])
def test_variable_and_its_file_at_once_are_refused(name: str, tmp_path: Path) -> None:
    path = secret_file(tmp_path, KEY)
    variables = {f"SEALEDSTATE_{name}": KEY, f"SEALEDSTATE_{name}_FILE": path}
    storage = {} if name == "STORAGE" else {"storage": f"sqlite:{tmp_path / 's'}"}
    keys = {"keys": "store:"} if name == "KEK" else {}
    with pytest.raises(ConfigurationError, match=f"SEALEDSTATE_{name}_FILE: .* is set, too"):
        Deployment.open(Settings.from_env({"SEALEDSTATE_KEYS": KEY} | variables, **storage, **keys))


def test_key_that_wraps_may_be_in_a_file(tmp_path: Path) -> None:
    kek = secret_file(tmp_path, f"{KEY}\n")
    environ = {"SEALEDSTATE_KEK_FILE": kek}
    given: dict[str, Any] = {"storage": f"sqlite:{tmp_path / 's'}", "rotate_in_process": False}
    with closing(Deployment.open(Settings(keys="store:", environ=environ, **given))) as first:
        ring = first.keyring()
    with closing(
        Deployment.open(Settings(keys="store:", environ={"SEALEDSTATE_KEK": KEY}, **given))
    ) as second:
        assert second.keyring() == ring
    for text in ("nonsense", "", "\n"):
        Path(kek).write_text(text)
        message = refusal(keys="store:", environ=environ, **given)
        assert message.startswith("keys: the file ") or message.startswith("SEALEDSTATE_KEK_FILE")
        assert "`sealedstate keys generate --kek`" in message


# --- keys in wrong places -------------------------------------------------------------------------

SECRET = KEY.rpartition(":")[2]
WRONG = (KEY, SECRET, f"postgresql://user:{SECRET}@host/db", KEY[:-5], f"x {KEY}", KEY.upper())


def outcome(make: Callable[[], Settings]) -> str:
    """What these settings show: their repr, and why they cannot be used."""
    shown = ""
    try:
        made = make()
        shown = repr(made)
        Deployment.open(made).close()
    except SealedStateError as error:
        shown += str(error)
    return shown


@pytest.mark.parametrize("name", Settings.__dataclass_fields__)
def test_secret_in_the_place_of_any_setting_is_not_repeated(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for wrong in WRONG:
        values: list[Any] = [wrong, [wrong], {wrong: wrong}, {"*": wrong}, ("x", wrong)]
        if name in ("keys", "storage"):
            values += [f"file:{wrong}", f"env:{wrong}", f"store:{wrong}", f"sqlite:{wrong}:x"]
        for value in values:
            given = {"keys": [KEY], "storage": "memory:", name: value, "environ": {}}
            given = given if name != "environ" else {"keys": [KEY], name: value}
            assert SECRET[:-5].lower() not in outcome(lambda: Settings(**given)).lower()  # noqa: B023
    variables = {f"SEALEDSTATE_{name.upper()}": KEY, "SEALEDSTATE_REALM": "x"}
    assert SECRET not in outcome(lambda: Settings.from_env(variables))


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
def test_secret_as_a_name_is_not_repeated(wrong: str, tmp_path: Path) -> None:
    file = tmp_path / "app.toml"
    file.write_text(f"'{wrong}' = 1\n")
    makers: list[Callable[[], Settings]] = [
        lambda: settings(**{wrong: 1}),
        lambda: Settings.from_env({f"SEALEDSTATE_{wrong}": "1"}),
        lambda: Settings.from_toml(file),
        lambda: Settings.from_toml(wrong),
    ]
    for make in makers:
        with pytest.raises(ConfigurationError) as caught:
            make()
        assert SECRET[:-5].lower() not in str(caught.value).lower()

"""What a view sees of a sealed session, and what a response carries."""

from __future__ import annotations

import asyncio
import copy
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.base import CreateError, UpdateError
from django.core.exceptions import SynchronousOnlyOperation
from django.core.management import call_command
from django.db import connection, transaction
from django.test import RequestFactory

from sealedstate.errors import LateWrite, UsageError
from sealedstate_django import SealedSessionMiddleware, SessionStore, keeper, sealed
from sealedstate_django.test import AsyncClient, Client
from tests.django.conftest import Change
from tests.support.django_site import KEY, plain

NAME = "__Host-Http-s"


def copy_of(client: Client) -> Client:
    """Another client with the cookies of this one, as a thief has it."""
    thief = Client(raise_request_exception=False)
    thief.cookies.load({name: each.value for name, each in client.cookies.items()})
    return thief


# --- cookies and headers ------------------------------------------------------------------------


def test_session_key_is_a_stable_id_and_no_part_of_the_cookie(client: Client) -> None:
    client.get("/write?cart=tea")
    key = client.get("/read").json()["key"]
    client.get("/write?cart=milk")
    assert client.get("/read").json() == {"key": key, "values": {"cart": "milk"}}
    assert len(key) == 22
    assert key not in client.cookies[NAME].value


def test_response_depends_on_the_cookie_only_if_the_view_used_the_session(client: Client) -> None:
    assert "Vary" not in client.get("/plain").headers
    assert client.get("/read")["Vary"] == "Cookie"
    response = client.get("/write?cart=tea")
    assert response["Vary"] == "Cookie"
    assert response["Cache-Control"] == "no-store, private"
    cookie = response.cookies[NAME]
    assert (cookie["httponly"], cookie["secure"], cookie["samesite"]) == (True, True, "Lax")
    assert not client.get("/read").cookies


def test_session_grows_into_several_cookies_and_shrinks_again(
    client: Client, change: Change
) -> None:
    change(SEALEDSTATE={"keys": KEY, "profile": "roomy"})
    values = {name: name * 1500 for name in "ab"}
    client.get("/write", values)
    assert len([name for name in client.cookies if name.startswith(NAME)]) > 1
    assert client.get("/read").json()["values"] == values
    client.get("/write", dict.fromkeys(values, "small"))
    assert list(client.cookies) == [NAME]


def test_partitioned_cookie_leaves_whole(client: Client, change: Change) -> None:
    table = {"keys": KEY, "partitioned": True, "same_site": "None"}
    change(SEALEDSTATE=table)
    text = client.get("/write?cart=tea").cookies.output()
    assert "; Partitioned" in text
    assert "; SameSite=None" in text


def test_own_cookie_settings_of_django_are_honoured(client: Client, change: Change) -> None:
    change(
        SESSION_COOKIE_NAME="shop", SESSION_COOKIE_PATH="/shop", SESSION_COOKIE_SAMESITE="Strict"
    )
    cookie = client.get("/write?cart=tea").cookies["shop"]
    assert (cookie["path"], cookie["samesite"]) == ("/shop", "Strict")


def test_save_every_request_seals_again_what_nobody_touched(client: Client, change: Change) -> None:
    client.get("/write?cart=tea")
    assert not client.get("/plain").cookies
    change(SESSION_SAVE_EVERY_REQUEST=True)
    assert NAME in client.get("/plain").cookies


def test_write_in_a_stream_raises_late_write(client: Client) -> None:
    response = client.get("/stream")
    assert NAME in response.cookies
    with pytest.raises(LateWrite):
        response.getvalue()


def test_outer_middleware_may_read_the_session_afterwards_but_not_write() -> None:
    request = RequestFactory().get("/plain")
    SealedSessionMiddleware(plain)(request)
    assert "cart" not in request.session
    with pytest.raises(LateWrite):
        request.session["cart"] = "tea"


# --- its life -----------------------------------------------------------------------------------


def test_nothing_is_saved_with_a_response_of_500(client: Client) -> None:
    client.get("/write?cart=tea")
    assert not client.get("/write?cart=milk&status=503").cookies
    assert client.get("/read").json()["values"] == {"cart": "tea"}


def test_write_after_a_logout_elsewhere_is_400_and_restores_nothing(client: Client) -> None:
    client.get("/write?cart=tea")
    other = copy_of(client)
    store = other.session
    assert store["cart"] == "tea"
    client.get("/leave")
    store["cart"] = "milk"
    with pytest.raises(UpdateError):
        store.save()
    assert store.load() == {}
    client.get("/write?cart=tea")
    assert client.get("/write_meanwhile").status_code == 400


@pytest.mark.parametrize("path", ["/leave", "/leave?fail", "/leave_in_transaction"])
@pytest.mark.parametrize("atomic", [False, True])
def test_logout_counts_for_a_captured_cookie_even_if_the_view_fails(
    client: Client, path: str, atomic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", atomic)
    client.get("/enter")
    thief = copy_of(client)
    assert "_auth_user_id" in thief.get("/read").json()["values"]
    assert client.get(path).status_code == (200 if path == "/leave" else 500)
    assert thief.get("/read").json()["values"] == {}


def test_login_gives_a_new_key_which_its_signal_already_knows(client: Client) -> None:
    client.get("/write?cart=tea")
    before, visitor = client.session.session_key, copy_of(client)
    seen: list[str] = []

    def see(request: Any, **kwargs: Any) -> None:
        seen.append(request.session.session_key)

    user_logged_in.connect(see)
    try:
        client.get("/enter")
    finally:
        user_logged_in.disconnect(see)
    assert seen == [client.session.session_key]
    assert seen != [before]
    assert client.session["cart"] == "tea"
    assert visitor.get("/read").json()["values"] == {}


def test_only_login_signs_in_and_the_subject_signs_out(client: Client) -> None:
    client.get("/enter")
    with pytest.raises(UsageError, match=r"django\.contrib\.auth\.login"):
        sealed(client.session).subject = "8"
    session = client.session
    sealed(session).subject = None
    session.save()
    assert sealed(client.session).subject is None
    assert "_auth_user_id" not in client.session


def test_sign_out_everywhere_ends_every_session_of_a_user(somebody: User) -> None:
    clients = [Client(), Client()]
    for each in clients:
        each.force_login(somebody)
        assert sealed(each.session).subject == str(somebody.pk)
    keeper().revoke_subject(str(somebody.pk))
    for each in clients:
        assert each.get("/read").json()["values"] == {}


def test_another_session_ends_by_its_key(client: Client) -> None:
    client.get("/write?cart=tea")
    key = client.session.session_key
    assert SessionStore().exists(key)
    SessionStore(key).delete()
    assert not SessionStore().exists(key)
    assert client.get("/read").json()["values"] == {}
    SessionStore("no-such-key").delete()
    assert not SessionStore().exists("no-such-key")
    assert not SessionStore().exists(None)


def test_key_alone_opens_nothing(client: Client) -> None:
    client.get("/write?cart=tea")
    store = SessionStore(client.session.session_key)
    assert "cart" not in store
    assert store.session_key is None


def test_empty_session_that_was_created_keeps_its_key(client: Client) -> None:
    session = client.session
    key = session.session_key
    assert client.get("/read").json() == {"key": key, "values": {}}
    client.get("/write?cart=tea")
    emptied = client.session
    del emptied["cart"]
    emptied.save()
    assert client.get("/read").json() == {"key": key, "values": {}}
    with pytest.raises(CreateError):
        client.session.save(must_create=True)


def test_cycle_key_keeps_the_values_and_ends_the_old_cookie(client: Client) -> None:
    client.get("/write?cart=tea")
    before, old = client.session.session_key, copy_of(client)
    key = client.get("/cycle").content.decode()
    assert client.get("/read").json() == {"key": key, "values": {"cart": "tea"}}
    assert key != before
    assert old.get("/read").json()["values"] == {}


def test_clearsessions_removes_expired_rows() -> None:
    store = keeper().deployment.store
    assert store is not None
    store.create("test", "key", b"", 1, 1)
    call_command("clearsessions")
    assert list(store.keys("test")) == []


# --- its end ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "age", "closes"),
    [
        (300, 300, False),
        (0, 14 * 86400, True),
        (None, 14 * 86400, False),
        (timedelta(minutes=10), 600, False),
        (datetime, 86400, False),
    ],
)
def test_expiry_is_that_of_the_session_and_its_cookie(value: Any, age: int, closes: bool) -> None:
    store = SessionStore()
    store["cart"] = ["tea"]
    if value is datetime:
        value = datetime.now(UTC) + timedelta(days=1)
    store.set_expiry(value)
    store.save()
    (line,) = store.lines
    assert ("Max-Age=" not in line) == closes == store.get_expire_at_browser_close()
    assert store.get_expiry_age() == pytest.approx(age, abs=60)
    info = keeper().info(sealed(store))
    assert info.sealed_at is not None
    assert info.idle_expires_at == pytest.approx(info.sealed_at + age, abs=60)
    if isinstance(value, timedelta | datetime):
        assert info.expires_at == pytest.approx(store.get_expiry_date().timestamp(), abs=2)


def test_expiry_survives_a_login_and_ends_when_it_is_removed(client: Client) -> None:
    session = client.session
    session.set_expiry(0)
    session.save()
    assert client.get("/enter").cookies[NAME]["max-age"] == ""
    session = client.session
    session.set_expiry(None)
    session.save()
    assert client.cookies[NAME]["max-age"] == pytest.approx(14 * 86400, abs=60)


@pytest.mark.parametrize(
    "value", [300, 20 * 86400, 0, timedelta(minutes=30), datetime(2100, 1, 1, tzinfo=UTC)]
)
def test_expiry_that_each_request_sets_leaves_the_key(
    client: Client, change: Change, value: Any
) -> None:
    table = {"keys": KEY, "storage": "django:default", "longest_lifetime": 30 * 86400}
    change(SEALEDSTATE=table)
    keys: list[str | None] = []

    def visit() -> int | None:
        session = client.session
        session["cart"] = "tea"
        session.set_expiry(value)
        session.save()
        keys.append(session.session_key)
        return sealed(client.session).expires_at

    with time_machine.travel(datetime(2030, 1, 1, tzinfo=UTC), tick=False) as clock:
        visit()
        end = visit()
        for _ in range(3):
            clock.shift(45)
            assert visit() == end
        assert len(set(keys[1:])) == 1
        clock.shift(60)
        moved = visit()
    assert (moved != end) == isinstance(value, timedelta)


def test_expiry_takes_the_place_of_the_one_before(client: Client) -> None:
    ages = []
    for value in (300, 0, timedelta(hours=1), 600, None):
        session = client.session
        session.set_expiry(value)
        session.save()
        info = keeper().info(sealed(client.session))
        assert info.sealed_at is not None
        assert info.idle_expires_at is not None
        ages.append((info.idle_expires_at - info.sealed_at, client.cookies[NAME]["max-age"] == ""))
    assert ages == [
        (300, False),
        (pytest.approx(14 * 86400, abs=60), True),
        (pytest.approx(3600, abs=60), False),
        (600, False),
        (pytest.approx(14 * 86400, abs=60), False),
    ]


def test_expiry_of_the_past_ends_the_session(client: Client) -> None:
    client.get("/write?cart=tea")
    thief = copy_of(client)
    session = client.session
    session.set_expiry(-1)
    session.save()
    assert NAME not in client.cookies
    assert thief.get("/read").json()["values"] == {}


def test_session_ends_with_the_browser_where_the_project_says_so(
    client: Client, change: Change
) -> None:
    change(SESSION_EXPIRE_AT_BROWSER_CLOSE=True)
    assert client.get("/write?cart=tea").cookies[NAME]["max-age"] == ""


# --- asynchronous views -------------------------------------------------------------------------


def test_asynchronous_views_have_the_session_through_its_async_methods() -> None:
    client = AsyncClient()

    async def visit() -> Any:
        await client.get("/write_async")
        await client.get("/write_async")
        found = (await client.get("/read_async")).json()
        session = await client.asession()
        thief = AsyncClient()
        thief.cookies.load({name: each.value for name, each in client.cookies.items()})
        await client.get("/leave_async")
        return found, session.session_key, (await thief.get("/read_async")).json()

    found, key, stolen = asyncio.run(visit())
    assert found == {"cart": ["tea", "tea"], "key": key}
    assert stolen["cart"] is None


def test_asynchronous_view_must_not_wait_for_a_store() -> None:
    client = AsyncClient()

    async def visit() -> None:
        assert (await client.get("/read_at_once")).json() == {"cart": None}
        await client.get("/write_async")
        await client.get("/read_at_once")

    with pytest.raises(SynchronousOnlyOperation, match="aget"):
        asyncio.run(visit())


def test_asynchronous_view_reads_at_once_without_a_store(without_store: None) -> None:
    client = AsyncClient()

    async def visit() -> Any:
        await client.get("/write_async")
        return (await client.get("/read_at_once")).json()

    assert asyncio.run(visit()) == {"cart": ["tea"]}


def test_cookie_in_several_fields_of_http_2_is_one(client: Client) -> None:
    client.get("/write?cart=tea")
    cookie = f"{NAME}={client.cookies[NAME].value}".encode()
    request: Any = RequestFactory().get("/read")
    request.scope = {"headers": [(b"cookie", b"theme=dark"), (b"cookie", cookie)]}
    SealedSessionMiddleware(plain)(request)
    assert request.session["cart"] == "tea"


# --- with other parts of Django -----------------------------------------------------------------


def test_messages_are_shown_once(client: Client, change: Change) -> None:
    change(MESSAGE_STORAGE="django.contrib.messages.storage.session.SessionStorage")
    client.get("/enter")
    assert client.get("/told").json() == ["welcome"]
    assert client.get("/told").json() == []


def test_admin_and_csrf_tokens_in_sessions(change: Change) -> None:
    change(CSRF_USE_SESSIONS=True, ROOT_URLCONF="tests.support.django_admin")
    client = Client(enforce_csrf_checks=True)
    page = client.get("/admin/login/?next=/admin/").content.decode()
    token = page.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
    fields = {"username": "ann", "password": "secret", "next": "/admin/"}
    assert client.post("/admin/login/", fields).status_code == 403
    response = client.post("/admin/login/", {**fields, "csrfmiddlewaretoken": token})
    assert response.status_code == 302
    assert client.get("/admin/").status_code == 200


def test_logout_in_a_transaction_that_is_rolled_back_stays_a_logout(client: Client) -> None:
    client.get("/write?cart=tea")
    session = client.session
    key = session.session_key

    def leave() -> None:
        with transaction.atomic():
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        leave()
    assert not SessionStore().exists(key)


def test_expiry_beyond_what_is_enforced_is_cut_and_logged_once(
    change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    change(SEALEDSTATE={"keys": KEY, "longest_lifetime": 1_300_007}, SESSION_COOKIE_AGE=1_209_600)
    store = SessionStore.from_cookies("")
    for value in (30 * 86400, timedelta(days=30)):
        store.set_expiry(value)
        assert 1_300_000 < store.get_expiry_age() <= 1_300_007
        assert (store.get_expiry_date() - datetime.now(UTC)).total_seconds() > 1_300_000
        assert (store.get_expiry_date() - datetime.now(UTC)).total_seconds() <= 1_300_007
        assert asyncio.run(store.aget_expiry_date()) <= datetime.now(UTC) + timedelta(days=16)
    assert [each for each in caplog.messages if "set_expiry" in each] == [
        "set_expiry: got 2592000 seconds, but a session lives for 1300007 at most; set"
        " longest_lifetime in SEALEDSTATE for more (this is logged once)"
    ]
    store.set_expiry(3600)
    assert store.get_expiry_age() == 3600


@pytest.mark.parametrize(("value", "seconds"), [(3600.9, 3600), (0.4, 1)])
def test_expiry_may_have_parts_of_a_second(value: float, seconds: int) -> None:
    store = SessionStore.from_cookies("")
    store["cart"] = ["tea"]
    store.set_expiry(value)
    store.save()
    assert store.get_expiry_age() == seconds
    assert not store.get_expire_at_browser_close()


def test_copy_of_a_session_is_a_dict_of_its_values() -> None:
    store = SessionStore.from_cookies("")
    store["cart"] = ["tea"]
    for twin in (copy.deepcopy(store), pickle.loads(pickle.dumps(store))):
        assert twin == {"cart": ["tea"]}
        assert type(twin) is dict
        twin["cart"].append("milk")
    assert store["cart"] == ["tea"]

"""The conformance kit for adapters: a pytest suite that tests a framework's sessions by requests.

    from sealedstate.testing.adapters import AdapterContract

    class TestMyAdapter(AdapterContract):
        def open_client(self, settings):
            return MyClient(make_app(settings))

**The application** has one page, POST ``/act``. It reads its body by `Act.parse`, carries it out by
`Act.run(session, api)`, awaits the result if that is awaitable, and answers 200 with the JSON of
the result. `session` is the framework's session object, and `api` has the methods of `Session`
that the adapter offers, with the same names; they may be coroutines. The application lets every
exception through, so that the framework makes its page of an error (status 500). Where `headers` of
an act are given, the response has them, too.

**The client** sends one request and returns its answer (`AdapterClient`). It must keep no cookies:
the kit does. It may be a test client in this process or one that talks to a real server. Requests
are for https, or claim to be by what the server trusts.

`settings` are those of the kit. Each test has another client and another store.
"""

from __future__ import annotations

import base64
import contextlib
import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, cast
from uuid import UUID

import pytest

from .._wire.cbor import plain
from ..keeper import Keeper
from ..keyring import Key, export_lookup
from ..settings import Settings

__all__ = ["Act", "AdapterClient", "AdapterContract", "Answer"]

SUBJECT_KEY = "_user_id"
needs_store = pytest.mark.usefixtures("store")
CALLERS = 12


class Colour(StrEnum):
    RED = "red"


class Text(str):
    __slots__ = ()


# Values by their names: JSON cannot carry them to the application.
VALUES: Mapping[str, object] = {
    "text": "caf\xe9 \u2603",
    "number": 1 << 70,
    "float": 0.1,
    "nothing": None,
    "flag": True,
    "bytes": b"\x00\xff",
    "list": [1, [2, {"a": (3, "4")}]],
    "tuple": (1, "2"),
    "set": {1, 2},
    "time": datetime(2027, 1, 2, 3, 4, 5, 678901, UTC),
    "id": UUID(int=7),
    "decimal": Decimal("1.50"),
}
SUBCLASSES: Mapping[str, tuple[object, object]] = {
    "enumeration": (Colour.RED, "red"),
    "text": (Text("tea"), "tea"),
}


@dataclass(frozen=True)
class Answer:
    """A response: its status, its header fields, and its body."""

    status: int
    headers: Sequence[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False, default=b"")

    def all(self, name: str) -> list[str]:
        """The values of all fields of this name."""
        return [value for each, value in self.headers if each.lower() == name]

    @property
    def result(self) -> Any:
        """What the act returned."""
        assert self.status == 200, (self.status, self.body[:500])
        return json.loads(self.body)


class AdapterClient(Protocol):
    """Sends requests to an application behind the adapter, and keeps no cookies."""

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes, /) -> Answer:
        """A POST with these header fields and this body."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Act:
    """What one request does: an operation, its arguments, and header fields of the response."""

    name: str
    arguments: tuple[Any, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"<Act with {len(self.arguments)} arguments>"

    @classmethod
    def parse(cls, body: bytes) -> Act:
        """The act of a request's body."""
        name, arguments, headers = json.loads(body)
        return cls(name, tuple(arguments), tuple((each, value) for each, value in headers))

    @property
    def body(self) -> bytes:
        return json.dumps([self.name, self.arguments, self.headers]).encode()

    def run(self, session: MutableMapping[str, Any], api: Any) -> Any:
        """Carry it out; the result is JSON, or an awaitable of it."""
        act: Callable[..., Any] = getattr(_Acts, self.name)
        return act(session, api, *self.arguments)


class _Acts:
    """The operations. Each is called with the framework's session and with api."""

    @staticmethod
    def nothing(session: Any, api: Any) -> str:
        return "nothing"

    @staticmethod
    def get(session: Any, api: Any, name: str) -> Any:
        return session.get(name)

    @staticmethod
    def put(session: Any, api: Any, values: dict[str, Any]) -> int:
        session.update(values)
        return len(session)

    @staticmethod
    def put_value(session: Any, api: Any, name: str) -> None:
        session["value"] = VALUES[name]

    @staticmethod
    def has_value(session: Any, api: Any, name: str) -> bool:
        value = session["value"]
        return type(value) is type(VALUES[name]) and value == VALUES[name]

    @staticmethod
    def put_subclass(session: Any, api: Any, name: str) -> None:
        session["value"] = [SUBCLASSES[name][0]]

    @staticmethod
    def put_unsupported(session: Any, api: Any) -> None:
        session["value"] = object()

    @staticmethod
    def append(session: Any, api: Any, name: str, item: Any) -> int:
        session[name].append(item)
        return len(session[name])

    @staticmethod
    def remove(session: Any, api: Any, name: str) -> Any:
        return session.pop(name)

    @staticmethod
    def clear(session: Any, api: Any) -> None:
        session.clear()

    @staticmethod
    def everything(session: Any, api: Any) -> dict[str, Any]:
        return dict(session)

    @staticmethod
    def mapping(session: Any, api: Any) -> list[object]:
        """What a mapping of two parts says about itself."""
        return [
            sorted(session),
            len(session),
            "a" in session,
            "z" in session,
            bool(session),
            session.setdefault("a", 9),
            session.pop("z", 7),
            session == {"a": 1, "b": [2]},
        ]

    @staticmethod
    def fail(session: Any, api: Any) -> None:
        session["broken"] = True
        raise RuntimeError("the application has failed")

    @staticmethod
    def sign_in(session: Any, api: Any, user: str) -> None:
        session[SUBJECT_KEY] = user

    @staticmethod
    def sign_out(session: Any, api: Any) -> None:
        session.pop(SUBJECT_KEY, None)

    @staticmethod
    async def who(session: Any, api: Any) -> list[Any]:
        return [api.id, api.subject, api.refusal, api.is_new, api.is_bound]

    @staticmethod
    async def call(session: Any, api: Any, method: str, named: dict[str, Any]) -> None:
        """A method of the session, or a coroutine."""
        result = getattr(api, method)(**named)
        if inspect.isawaitable(result):
            await result


def _make_signer() -> Callable[..., str]:
    """A function that signs a challenge with one key, as browsers do."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    def write(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    private = ec.generate_private_key(ec.SECP256R1())
    numbers = private.public_key().public_numbers()
    x, y = (write(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))

    def sign(challenge: str, is_new: bool = False) -> str:
        header: dict[str, Any] = {"alg": "ES256", "typ": "dbsc+jwt"}
        if is_new:
            header["jwk"] = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
        signed = ".".join(write(json.dumps(each).encode()) for each in (header, {"jti": challenge}))
        der = private.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        r, s = utils.decode_dss_signature(der)
        return f"{signed}.{write(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    return sign


class Visitor:
    """A browser of the kit: it keeps cookies by name, and sends them back."""

    def __init__(self, client: AdapterClient, cookies: Mapping[str, str] | None = None) -> None:
        self._client = client
        self.cookies = dict(cookies or {})
        self.last = Answer(0, ())

    def copy(self) -> Visitor:
        """Another browser with the same cookies, such as a thief's."""
        return Visitor(self._client, self.cookies)

    def act(
        self,
        name: str,
        *arguments: Any,
        headers: Sequence[tuple[str, str]] = (),
        asked: Sequence[tuple[str, str]] = (),
    ) -> Answer:
        """A request; `asked`: fields of the response, `headers`: fields of the request."""
        sent = [("Content-Type", "application/json"), *headers]
        return self.send("/act", sent, Act(name, arguments, tuple(asked)).body)

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes = b"") -> Answer:
        """A request for any path, with the cookies."""
        sent = list(headers)
        if self.cookies:
            pairs = (f"{each}={value}" for each, value in self.cookies.items())
            sent.append(("Cookie", "; ".join(pairs)))
        self.last = self._client.send(path, sent, body)
        for line in self.last.all("set-cookie"):
            pair, *attributes = line.strip().split(";")
            each, _, value = pair.partition("=")
            if any(attribute.strip().lower() == "max-age=0" for attribute in attributes):
                self.cookies.pop(each, None)
            else:
                self.cookies[each] = value
        return self.last

    def do(self, name: str, *arguments: Any) -> Any:
        """The result of an act that does not fail."""
        return self.act(name, *arguments).result

    @property
    def id(self) -> str:
        found: str = self.do("who")[0]
        return found

    @property
    def subject(self) -> str | None:
        found: str | None = self.do("who")[1]
        return found


class AdapterContract:
    """What every adapter owes. Subclass it and define `open_client(self, settings)`.

    The settings have a store, `subject_key` is ``"_user_id"``, and `convert` is `plain`.
    """

    has_response_headers = True
    """Whether the application can give a response the fields that an act asks for."""

    has_store = True
    """Whether the settings have a store. Without it, what needs one is skipped."""

    has_binding = False
    """Whether the adapter binds sessions to devices, with the setting binding_path."""

    def open_client(self, settings: Settings) -> AdapterClient:
        """A client of an application with these settings."""
        raise NotImplementedError

    @pytest.fixture
    def settings(self) -> Iterator[Settings]:
        with tempfile.TemporaryDirectory() as folder:
            stored = {
                "storage": f"sqlite:{Path(folder) / 'sessions.db'}",
                "part_policies": {"vault": "server"},
            }
            yield Settings(
                keys=[Key.generate(os.urandom).export(), export_lookup(os.urandom(32))],
                subject_key=SUBJECT_KEY,
                convert=plain,
                longest_lifetime=30 * 86400,
                **cast(Any, stored if self.has_store else {}),
            )

    @pytest.fixture
    def store(self) -> None:
        """For a promise that needs a store."""
        if not self.has_store:
            pytest.skip("needs a store")

    @pytest.fixture
    def client(self, settings: Settings) -> Iterator[AdapterClient]:
        client = self.open_client(settings)
        with contextlib.closing(client):
            yield client

    @pytest.fixture
    def visitor(self, client: AdapterClient) -> Visitor:
        return Visitor(client)

    # --- binding to a device --------------------------------------------------------------------

    def test_bound_session_opens_only_in_its_browser(self, settings: Settings) -> None:
        if not self.has_binding:
            pytest.skip("binds no sessions")
        pytest.importorskip("cryptography", reason="not installed: cryptography")
        sign = _make_signer()
        settings = replace(settings, binding_path="/session-binding")
        with contextlib.closing(self.open_client(settings)) as client:
            visitor = Visitor(client)
            assert visitor.act("who").all("secure-session-registration") == []
            (offer,) = visitor.act("sign_in", "ann").all("secure-session-registration")
            before = visitor.copy()
            challenge = offer.partition('challenge="')[2].partition('"')[0]
            path = "/session-binding/register"
            assert visitor.send(path, [("Secure-Session-Response", "x.y.z")]).status == 403
            answer = visitor.send(path, [("Secure-Session-Response", sign(challenge, True))])
            bound = json.loads(answer.body)["credentials"][0]["name"]
            who = visitor.do("who")
            assert (who[1], who[4]) == ("ann", True)
            if self.has_store:
                assert before.do("who")[1] is None
            late = visitor.copy()  # without its bound cookie, as a thief is
            del late.cookies[bound]
            assert late.do("who")[1:3] == [None, "withheld"]
            path = "/session-binding/refresh"
            asked = late.send(path, [])
            assert asked.status == 403
            challenge = asked.all("secure-session-challenge")[0].split('"')[1]
            assert late.send(path, [("Secure-Session-Response", sign(challenge))]).status == 200
            assert late.do("who")[1] == "ann"
            assert visitor.act("sign_out").all("secure-session-registration") == []

    # --- headers --------------------------------------------------------------------------------

    def test_page_that_does_not_use_the_session_says_nothing_of_it(self, visitor: Visitor) -> None:
        answer = visitor.act("nothing")
        assert answer.result == "nothing"
        assert (answer.all("set-cookie"), answer.all("vary")) == ([], [])

    def test_page_that_reads_the_session_varies_with_the_cookie(self, visitor: Visitor) -> None:
        answer = visitor.act("get", "cart")
        assert answer.result is None
        assert answer.all("set-cookie") == []
        assert "cookie" in ",".join(answer.all("vary")).lower()

    def test_cookie_is_host_only_http_only_and_secure(self, visitor: Visitor) -> None:
        (line,) = visitor.act("put", {"cart": ["tea"]}).all("set-cookie")
        name, *attributes = (part.strip() for part in line.split(";"))
        assert name.startswith("__Host-Http-s=")
        assert sorted(attributes) == ["HttpOnly", "Path=/", "SameSite=Lax", "Secure"]

    def test_response_that_sets_the_cookie_is_stored_by_no_cache(self, visitor: Visitor) -> None:
        answer = visitor.act("put", {"cart": ["tea"]})
        assert "no-store" in ",".join(answer.all("cache-control"))

    def test_headers_of_the_application_are_kept_and_merged(self, visitor: Visitor) -> None:
        if not self.has_response_headers:
            pytest.skip("the application gives its responses no fields")
        asked = [("Vary", "Accept"), ("Set-Cookie", "theme=dark; Path=/")]
        asked.append(("Cache-Control", "public, max-age=60"))
        answer = visitor.act("put", {"cart": ["tea"]}, asked=asked)
        lines = answer.all("set-cookie")
        assert "theme=dark; Path=/" in lines
        assert len(lines) == 2
        (vary,) = answer.all("vary")
        assert {word.strip().lower() for word in vary.split(",")} == {"accept", "cookie"}
        (control,) = answer.all("cache-control")
        assert "no-store" in control
        assert "public" not in control

    # --- the mapping ----------------------------------------------------------------------------

    def test_what_is_written_is_read_in_the_next_request(self, visitor: Visitor) -> None:
        visitor.do("put", {"cart": ["tea"], "count": 1})
        assert visitor.do("get", "cart") == ["tea"]
        assert visitor.do("everything") == {"cart": ["tea"], "count": 1}

    def test_session_is_a_mapping(self, visitor: Visitor) -> None:
        visitor.do("put", {"a": 1, "b": [2]})
        assert visitor.do("mapping") == [["a", "b"], 2, True, False, True, 1, 7, True]

    def test_change_inside_a_value_is_saved(self, visitor: Visitor) -> None:
        visitor.do("put", {"cart": ["tea"]})
        assert visitor.do("append", "cart", "milk") == 2
        assert visitor.do("get", "cart") == ["tea", "milk"]

    def test_removed_part_is_gone_and_the_others_stay(self, visitor: Visitor) -> None:
        visitor.do("put", {"cart": ["tea"], "colour": "red"})
        assert visitor.do("remove", "cart") == ["tea"]
        assert visitor.do("everything") == {"colour": "red"}

    def test_empty_session_has_no_cookie(self, visitor: Visitor) -> None:
        visitor.do("put", {"cart": ["tea"]})
        visitor.do("clear")
        assert visitor.cookies == {}
        assert visitor.do("everything") == {}

    def test_unchanged_session_is_not_sent_again(self, visitor: Visitor) -> None:
        visitor.do("put", {"cart": ["tea"]})
        assert visitor.act("get", "cart").all("set-cookie") == []

    @pytest.mark.parametrize("name", VALUES)
    def test_value_comes_back_with_its_type(self, visitor: Visitor, name: str) -> None:
        visitor.do("put_value", name)
        assert visitor.do("has_value", name)

    @pytest.mark.parametrize("name", SUBCLASSES)
    def test_value_of_a_subclass_comes_back_as_its_base_type(
        self, visitor: Visitor, name: str
    ) -> None:
        visitor.do("put_subclass", name)
        assert visitor.do("get", "value") == [SUBCLASSES[name][1]]

    def test_unsupported_value_fails_and_loses_nothing(self, visitor: Visitor) -> None:
        visitor.do("put", {"cart": ["tea"]})
        failed = visitor.act("put_unsupported")
        assert failed.status == 500
        assert failed.all("set-cookie") == []
        assert visitor.do("everything") == {"cart": ["tea"]}

    def test_exception_leaves_the_session_as_it_was(self, visitor: Visitor) -> None:
        visitor.do("put", {"cart": ["tea"]})
        failed = visitor.act("fail")
        assert failed.status == 500
        assert visitor.do("get", "cart") == ["tea"]

    # --- sizes and places -----------------------------------------------------------------------

    @needs_store
    def test_large_session_is_carried(self, visitor: Visitor) -> None:
        for size in (10, 2_000, 6_000, 20_000, 10):
            visitor.do("put", {"cart": "t" * size, "note": "n"})
            assert visitor.do("everything") == {"cart": "t" * size, "note": "n"}
            assert sum(map(len, visitor.cookies.values())) < 4_096

    @needs_store
    def test_part_of_the_server_is_not_in_the_cookie(self, visitor: Visitor) -> None:
        visitor.do("put", {"vault": "v" * 3_000})
        assert sum(map(len, visitor.cookies.values())) < 300
        assert visitor.do("get", "vault") == "v" * 3_000
        visitor.do("put", {"vault": "another", "note": 1})
        assert visitor.do("everything") == {"vault": "another", "note": 1}

    # --- who is signed in -----------------------------------------------------------------------

    def test_assigned_user_is_signed_in_with_a_new_id(self, visitor: Visitor) -> None:
        visitor.do("put", {"cart": ["tea"]})
        before, thief = visitor.id, visitor.copy()
        visitor.do("sign_in", "7")
        assert visitor.subject == "7"
        assert visitor.id != before
        assert visitor.do("get", "cart") == ["tea"]
        assert thief.subject is None

    def test_id_stays_until_the_next_sign_in(self, visitor: Visitor) -> None:
        visitor.do("sign_in", "7")
        first = visitor.id
        visitor.do("put", {"cart": ["tea"]})
        assert visitor.id == first
        assert len(first) == 22

    @needs_store
    @pytest.mark.parametrize("way", ["sign_out", "clear", "invalidate"])
    def test_captured_cookie_is_refused_after_a_logout(self, visitor: Visitor, way: str) -> None:
        visitor.do("sign_in", "7")
        thief = visitor.copy()
        assert thief.subject == "7"
        if way == "invalidate":
            visitor.do("call", way, {})
        else:
            visitor.do(way)
        assert visitor.subject is None
        assert thief.do("who")[1:3] == [None, "signed-out"]

    @needs_store
    def test_old_cookie_is_refused_after_a_new_id(self, visitor: Visitor) -> None:
        visitor.do("sign_in", "7")
        thief, before = visitor.copy(), visitor.id
        visitor.do("call", "regenerate", {})
        assert (visitor.subject, visitor.id == before) == ("7", False)
        assert thief.do("who")[1:3] == [None, "replaced"]

    @needs_store
    def test_another_user_takes_the_place_of_the_first(self, visitor: Visitor) -> None:
        visitor.do("sign_in", "7")
        thief = visitor.copy()
        visitor.do("sign_in", "8")
        assert visitor.subject == "8"
        assert thief.subject is None

    @needs_store
    def test_user_is_signed_out_everywhere(self, client: AdapterClient, settings: Settings) -> None:
        browsers = [Visitor(client) for _ in range(3)]
        for browser, user in zip(browsers, ["7", "7", "8"], strict=True):
            browser.do("sign_in", user)
        keeper = Keeper(settings)
        with contextlib.closing(keeper.deployment):
            keeper.revoke_subject("7")
        assert [browser.subject for browser in browsers] == [None, None, "8"]
        browsers[0].do("sign_in", "7")
        assert browsers[0].subject == "7"

    @needs_store
    def test_session_is_ended_by_its_id(
        self, client: AdapterClient, visitor: Visitor, settings: Settings
    ) -> None:
        visitor.do("sign_in", "7")
        keeper = Keeper(settings)
        with contextlib.closing(keeper.deployment):
            assert keeper.revoke_session(visitor.id)
        assert visitor.do("who")[1:3] == [None, "signed-out"]

    def test_session_is_remembered_beyond_the_window(self, visitor: Visitor) -> None:
        visitor.do("put", {"cart": ["tea"]})
        visitor.do("call", "limit", {"persistent": True, "idle": 20 * 86400})
        (line,) = visitor.act("put", {"cart": ["milk"]}).all("set-cookie")
        assert "Max-Age=" in line
        visitor.do("call", "limit", {"persistent": False})
        (line,) = visitor.act("put", {"cart": ["tea"]}).all("set-cookie")
        assert "Max-Age=" not in line

    # --- what requests bring --------------------------------------------------------------------

    @pytest.mark.parametrize("value", ["", "x", "A" * 300, '"quoted"', "\xe9", "A" * 9_000])
    def test_any_cookie_of_our_name_gets_a_page(self, client: AdapterClient, value: str) -> None:
        visitor = Visitor(client, {"__Host-Http-s": value, "other": "1"})
        assert visitor.do("everything") == {}
        visitor.do("put", {"cart": ["tea"]})
        assert visitor.do("everything") == {"cart": ["tea"]}

    def test_altered_cookie_opens_nothing(self, visitor: Visitor) -> None:
        visitor.do("sign_in", "7")
        ((name, value),) = visitor.cookies.items()
        for at in range(0, len(value), 7):
            letter = "A" if value[at] != "A" else "B"
            altered = visitor.copy()
            altered.cookies[name] = value[:at] + letter + value[at + 1 :]
            assert altered.subject is None
        assert visitor.subject == "7"

    def test_cookies_of_others_are_no_obstacle(self, visitor: Visitor) -> None:
        visitor.cookies |= {f"other{number}": "x" * 60 for number in range(40)}
        visitor.do("sign_in", "7")
        visitor.do("put", {"cart": ["tea"]})
        assert visitor.do("get", "cart") == ["tea"]

    def test_post_of_another_site_does_not_replace_a_login(self, visitor: Visitor) -> None:
        foreign = [("Sec-Fetch-Site", "cross-site")]
        visitor.do("sign_in", "7")
        # Under SameSite=Lax, the browser holds its cookies back.
        bare = Visitor(visitor._client)
        assert bare.act("put", {"cart": ["tea"]}, headers=foreign).all("set-cookie") == []
        assert bare.act("sign_in", "9", headers=foreign).all("set-cookie")

    # --- several requests -----------------------------------------------------------------------

    def test_requests_at_once_have_their_own_sessions(self, client: AdapterClient) -> None:
        def visit(number: int) -> bool:
            visitor = Visitor(client)
            for count in range(3):
                visitor.do("put", {"number": number, "count": count})
                if visitor.do("everything") != {"number": number, "count": count}:
                    return False
            return True

        with ThreadPoolExecutor(CALLERS) as pool:
            assert all(pool.map(visit, range(CALLERS)))

    @needs_store
    def test_one_of_many_logouts_at_once_ends_the_session(self, visitor: Visitor) -> None:
        visitor.do("sign_in", "7")
        thief, browsers = visitor.copy(), [visitor.copy() for _ in range(CALLERS)]
        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(lambda browser: browser.act("sign_out"), browsers))
        assert thief.subject is None

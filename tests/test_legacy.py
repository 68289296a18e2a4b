"""Old sessions of other frameworks: adopted once, sealed then, and refused after a logout.

No framework is needed: this module writes their cookies, as they do, and `vectors/legacy.json` has
cookies that the frameworks wrote.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from itsdangerous import TimestampSigner, URLSafeTimedSerializer
from markupsafe import Markup
from nacl.secret import SecretBox
from werkzeug.http import http_date

from sealedstate import (
    ConfigurationError,
    Keeper,
    Key,
    LegacyReader,
    Outcome,
    Session,
    Settings,
    plain,
)
from sealedstate.errors import UncheckedSession
from sealedstate.keyring import export_lookup
from sealedstate.legacy import MAX_COOKIE_CHARS, Adopted, StoredSession
from tests.support.jar import Clock, Jar
from tests.support.spec_decoder import described
from tests.support.tables import check_each

FROZEN = json.loads((Path(__file__).parent / "vectors" / "legacy.json").read_text("utf-8"))
NOW = 1_790_000_000
SECRET = "an old secret, as people write them"
UNTIL = datetime.fromtimestamp(NOW + 30 * 86400, UTC)
KEY, LOOKUP = Key.generate(os.urandom).export(), export_lookup(os.urandom(32))
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

URL_SAFE = str.maketrans("+/", "-_")

FLASK = LegacyReader("flask", SECRET, UNTIL)
STARLETTE = LegacyReader("starlette", SECRET, UNTIL)


# --- cookies as the frameworks write them ---------------------------------------------------------


def signer_at(now: int) -> type[TimestampSigner]:
    class Signer(TimestampSigner):
        def get_timestamp(self) -> int:
            return now

    return Signer


def tag(value: Any) -> Any:
    """A value as Flask's TaggedJSONSerializer writes it."""
    if isinstance(value, dict):
        ((key, content), *more) = value.items() if value else [("", None), ("", None)]
        if not more and key in (" di", " t", " b", " m", " u", " d"):
            return {" di": {f"{key}__": tag(content)}}
        return {key: tag(content) for key, content in value.items()}
    if isinstance(value, tuple):
        return {" t": [tag(item) for item in value]}
    if isinstance(value, list):
        return [tag(item) for item in value]
    if isinstance(value, bytes):
        return {" b": base64.b64encode(value).decode()}
    if isinstance(value, Markup):
        return {" m": str(value)}
    if isinstance(value, uuid.UUID):
        return {" u": value.hex}
    if isinstance(value, datetime):
        return {" d": http_date(value)}
    return value


class FlaskJSON:
    @staticmethod
    def dumps(value: Any) -> str:
        return json.dumps(tag(value), separators=(",", ":"), sort_keys=True)

    @staticmethod
    def loads(text: str | bytes) -> Any:
        raise NotImplementedError


class AnyJSON(FlaskJSON):
    """Writes any value, as no Flask would."""

    @staticmethod
    def dumps(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value)


def flask_cookie(
    values: Any, now: int = NOW, secret: str = SECRET, json_of: type = FlaskJSON, **given: Any
) -> str:
    serializer = URLSafeTimedSerializer(
        secret,
        salt=given.get("salt", "cookie-session"),
        serializer=json_of,
        signer=signer_at(now),
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha1},
    )
    text = serializer.dumps(values)
    assert isinstance(text, str)
    return text


def starlette_cookie(values: Any, now: int = NOW, secret: str = SECRET) -> str:
    data = base64.b64encode(json.dumps(values).encode())
    return signer_at(now)(secret).sign(data).decode()


def key_of(secret: str) -> bytes:
    return hashlib.blake2b(secret.encode(), digest_size=32).digest()


def litestar_cookie(
    values: Any, now: int = NOW, secret: str = SECRET, max_age: int = 14 * 86400
) -> str:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    content = json.dumps(values).encode()
    data = json.dumps({"expires_at": now + max_age}).encode()
    nonce = hashlib.blake2b(content + data, digest_size=12).digest()
    sealed = AESGCM(key_of(secret)).encrypt(nonce, content, data)
    return base64.b64encode(nonce + sealed + b"additional_authenticated_data=" + data).decode()


def fernet_cookie(values: Any, now: int = NOW, secret: str = SECRET, created: object = None) -> str:
    from cryptography.fernet import Fernet

    session = {"created": now if created is None else created, "session": values}
    content = json.dumps(session).encode()
    fernet: Any = Fernet(base64.urlsafe_b64encode(key_of(secret)))
    start = hashlib.blake2b(content, digest_size=16).digest()
    text: bytes = fernet._encrypt_from_parts(content, now, start)
    return text.decode()


def nacl_cookie(values: Any, now: int = NOW, secret: str = SECRET, created: object = None) -> str:
    session = {"created": now if created is None else created, "session": values}
    content = json.dumps(session).encode()
    nonce = hashlib.blake2b(content, digest_size=24).digest()
    return base64.b64encode(SecretBox(key_of(secret)).encrypt(content, nonce)).decode()


COOKIES: dict[str, Callable[..., str]] = {
    "flask": flask_cookie,
    "starlette": starlette_cookie,
    "aiohttp-nacl": nacl_cookie,
    "litestar": litestar_cookie,
    "aiohttp-fernet": fernet_cookie,
}
READERS = {
    "flask": FLASK,
    "starlette": STARLETTE,
    "aiohttp-nacl": LegacyReader("aiohttp-nacl", key_of(SECRET), UNTIL, "session"),
}
if find_spec("cryptography") is not None:
    READERS["litestar"] = LegacyReader("litestar", key_of(SECRET), UNTIL)
    READERS["aiohttp-fernet"] = LegacyReader("aiohttp-fernet", key_of(SECRET), UNTIL, "session")
BOTH = pytest.mark.parametrize("kind", ["flask", "starlette"])
EACH = pytest.mark.parametrize("kind", list(COOKIES))


@pytest.fixture(autouse=True)
def need_cipher(request: pytest.FixtureRequest) -> None:
    """Skip the test if its kind of cookie needs a package that is not installed."""
    if "kind" in request.fixturenames and request.getfixturevalue("kind") not in READERS:
        pytest.skip("not installed: cryptography")


# --- an application that moves --------------------------------------------------------------------


class Application:
    """A keeper that adopts old cookies, and its clock."""

    def __init__(self, reader: LegacyReader, **given: Any) -> None:
        self.clock = Clock(NOW)
        usual = {
            "keys": [KEY, LOOKUP],
            "storage": "memory:",
            "accept_weak_store_for": ["revocation"],
        }
        settings = {**usual, "legacy": reader, **given}
        self.keeper = Keeper(Settings(clock=self.clock, **settings))

    def answer(self, jar: Jar, view: Callable[[Session], object]) -> object:
        session = self.keeper.session(jar.header())
        shown = view(session)
        jar.receive(self.keeper.save(session))
        return shown

    def is_new(self, header: str) -> bool:
        """Whether a request with this header has no session."""
        session = self.keeper.session(header)
        assert session.is_new is (dict(session) == {})
        return session.is_new


def jar_with(name: str, value: str) -> Jar:
    jar = Jar()
    jar.receive([f"{name}={value}; Path=/"])
    return jar


def adopt(reader: LegacyReader, text: str, now: int = NOW) -> Adopted:
    adopted = reader.read(text, now)
    assert adopted is not None
    return adopted


# --- cookies of the frameworks --------------------------------------------------------------------


def test_cookies_of_flask_are_read_and_sealed_with_every_type() -> None:
    reader = LegacyReader("flask", FROZEN["flask_secret"].encode(), UNTIL)
    expected = {
        "_flashes": [("message", "Hello")],
        "_fresh": True,
        "_permanent": True,
        "_user_id": "42",
        "b": b"\x00\xff",
        "cart": [1, 2.5, None, {"sku": "ä-☃"}],
        "d": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "guard": {" t": [1]},
        "guard2": {" di": {" b": "x"}},
        "m": Markup("<b>x</b>"),
        "t": (1, ("two", b"three")),
        "u": uuid.UUID("12345678-1234-5678-1234-567812345678"),
    }
    app, jar = Application(reader), jar_with("session", FROZEN["flask"])
    for _ in range(2):  # the old cookie, then the sealed cookie
        found = app.answer(jar, lambda session: dict(sorted(session.items())))
        assert described(found) == described(expected)
    assert app.keeper.counts["adopted"] == 1
    assert adopt(reader, FROZEN["flask_small"]).values == {"_user_id": "42"}
    assert FROZEN["flask_zip"].startswith(".")  # compressed
    values = adopt(reader, FROZEN["flask_zip"]).values
    assert values == {"_user_id": "42", "text": "again and " * 60}


def test_cookie_of_starlette_is_read() -> None:
    reader = LegacyReader("starlette", FROZEN["starlette_secret"], UNTIL)
    text = FROZEN["starlette_line"].partition(";")[0].partition("=")[2]
    assert adopt(reader, text).values == {"user": "alice", "cart": [1, {"sku": "ä"}], "n": None}


VALUES = {"user": "alice", "cart": [1, {"sku": "ä"}], "n": None}


def cookie_header(lines: list[str]) -> str:
    return "; ".join(line.partition(";")[0] for line in lines)


def test_cookies_of_aiohttp_session_are_read() -> None:
    for kind, secret in (
        ("aiohttp-nacl", bytes.fromhex(FROZEN["nacl_secret"])),
        ("aiohttp-fernet", FROZEN["fernet_secret"]),
        ("aiohttp-fernet", FROZEN["fernet_secret"].encode()),
        ("aiohttp-fernet", base64.urlsafe_b64decode(FROZEN["fernet_secret"])),
    ):
        if kind in READERS:
            line = FROZEN[kind.removeprefix("aiohttp-") + "_line"]
            reader = LegacyReader(kind, [b"x" * 32, secret], UNTIL)  # type: ignore[arg-type]
            adopted = adopt(reader, reader.find(cookie_header([line])) or "")
            assert (adopted.values, adopted.signed_at) == (VALUES, NOW)


def litestar_reader(**given: Any) -> LegacyReader:
    pytest.importorskip("cryptography", reason="not installed: cryptography")
    secrets = [b"x" * 16, bytes.fromhex(FROZEN["litestar_secret"])]
    return LegacyReader("litestar", secrets, UNTIL, **given)


def test_cookies_of_litestar_are_read_from_one_cookie_or_several_and_deleted() -> None:
    reader = litestar_reader()
    adopted = adopt(reader, reader.find(cookie_header(FROZEN["litestar_lines"])) or "")
    assert (adopted.values, adopted.signed_at) == (VALUES, NOW)
    lines = FROZEN["litestar_chunk_lines"]
    assert len(lines) == 2
    for order in (lines, lines[::-1]):
        app = Application(reader)
        session = app.keeper.session("a=b; " + cookie_header(order))
        assert (session["user"], len(str(session["text"]))) == ("alice", 3840)
        ours, *deletions = app.keeper.save(session)
        assert ours.startswith("__Host-Http-s=")
        assert deletions == [
            f"session-{number}=; Max-Age=0; Path=/; HttpOnly" for number in range(2)
        ]
    for wrong in (lines[:1], lines[1:], [lines[0].replace("session-0", "session"), lines[1]]):
        assert Application(reader).is_new(cookie_header(wrong))


def test_cookies_of_this_module_are_those_of_the_frameworks() -> None:
    small = flask_cookie({"_user_id": "42"}, FROZEN["now"], FROZEN["flask_secret"])
    assert small == FROZEN["flask_small"]
    compressed = flask_cookie(
        {"_user_id": "42", "text": "again and " * 60}, FROZEN["now"], FROZEN["flask_secret"]
    )
    assert compressed.startswith(".")
    values = {"user": "alice", "cart": [1, {"sku": "ä"}], "n": None}
    text = starlette_cookie(values, FROZEN["now"], FROZEN["starlette_secret"])
    assert FROZEN["starlette_line"].startswith(f"session={text};")


# --- adopted once, then sealed --------------------------------------------------------------------


@EACH
def test_old_session_is_adopted_once_and_sealed(kind: str) -> None:
    app = Application(replace(READERS[kind], subject="_user_id"))
    jar = jar_with("session", COOKIES[kind]({"_user_id": "42", "cart": [1, 2]}))
    assert app.answer(jar, repr) == "<Session>"  # a request that does not read it
    assert app.keeper.counts["adopted"] == 0
    seen = app.answer(jar, lambda session: (dict(session), session.subject, session.is_new))
    assert seen == ({"_user_id": "42", "cart": [1, 2]}, "42", False)
    assert jar.header().startswith("__Host-Http-s=")
    assert "session=" not in jar.header()
    assert app.keeper.counts["adopted"] == 1
    app.clock.forward(60)
    again = app.answer(jar, lambda session: (dict(session), session.subject, session.is_new))
    assert again == seen
    assert app.keeper.counts["adopted"] == 1


@EACH
def test_old_cookie_is_deleted_with_its_path_domain_and_prefix(kind: str) -> None:
    app = Application(
        replace(READERS[kind], cookie_name="old", cookie_path="/app", cookie_domain="example.org")
    )
    session = app.keeper.session(f"a=b; old={COOKIES[kind]({'n': 1})}")
    assert session["n"] == 1
    assert "old=; Max-Age=0; Path=/app; Domain=example.org; HttpOnly" in app.keeper.save(session)
    for name in ("__Host-old", "__Secure-old", "__host-old", "__Host-Http-old", "__http-old"):
        app, jar = Application(replace(READERS[kind], cookie_name=name)), Jar()
        jar.receive([f"{name}={COOKIES[kind]({'n': 1})}; Path=/; Secure; HttpOnly"])
        assert app.answer(jar, lambda session: session["n"]) == 1
        assert name not in jar.header()


def test_subject_becomes_text() -> None:
    app = Application(replace(FLASK, subject="uid"))
    for value, subject in ((42, "42"), ("alice", "alice"), (None, None)):
        session = app.keeper.session(f"session={flask_cookie({'uid': value})}")
        assert session.subject == subject
    assert app.keeper.session(f"session={flask_cookie({'other': 1})}").subject is None


def test_first_old_cookie_of_its_name_is_read_also_in_quotes() -> None:
    first, second = flask_cookie({"n": 1}), flask_cookie({"n": 2})
    assert FLASK.find(f"a=b; session={first}; session={second}") == first
    assert FLASK.find("\xa0session=x; session =x; Session=x; sessions=x; session") is None
    assert FLASK.find("") is None
    assert replace(FLASK, cookie_name="old").find(f"session=x; old={first}") == first
    assert dict(Application(FLASK).keeper.session(f'session="{first}"')) == {"n": 1}


# --- refused --------------------------------------------------------------------------------------


@BOTH
def test_old_cookie_is_refused_outside_its_time(kind: str) -> None:
    cookie, reader = COOKIES[kind], READERS[kind]
    text, framework_age = cookie({"n": 1}), {"flask": 31, "starlette": 14}[kind] * 86400
    lasting = replace(reader, until=UNTIL + timedelta(days=365))
    for age, limited in (
        (framework_age, lasting),
        (3600, replace(reader, max_age=3600)),
        (0, replace(reader, max_age=0)),
    ):
        assert limited.read(text, NOW + age) is not None
        assert limited.read(text, NOW + age + 1) is None
    assert reader.read(cookie({"n": 1}, NOW + 1), NOW) is None  # from the future
    end = int(UNTIL.timestamp())
    text = cookie({"n": 1}, end - 10)
    assert reader.read(text, end - 1) is not None
    assert reader.read(text, end) is None
    app = Application(reader)
    app.clock.now = end + 5
    assert app.is_new(f"session={text}")
    assert app.keeper.counts["legacy-refused"] == 1


@EACH
def test_every_letter_of_an_old_cookie_counts(kind: str) -> None:
    text = COOKIES[kind]({"_user_id": "42"})
    good = adopt(READERS[kind], text)
    # Encrypted bytes have no signature behind them.
    signature = text.rfind(".") + 1
    for at in range(len(text)):
        for letter in (LETTERS[(LETTERS.find(text[at]) + 1) % 64], "A", ".", "=", "ä"):
            altered = text[:at] + letter + text[at + 1 :]
            if altered == text:
                continue
            read = READERS[kind].read(altered, NOW)
            # It can be written in several ways, but the session is the same.
            assert read is None or (at >= signature and read == good)


@EACH
def test_old_cookie_of_another_secret_salt_or_framework_is_refused(kind: str) -> None:
    assert READERS[kind].read(COOKIES[kind]({"n": 1}, NOW, "another secret"), NOW) is None
    assert FLASK.read(flask_cookie({"n": 1}, salt="another"), NOW) is None
    assert FLASK.read(starlette_cookie({"n": 1}), NOW) is None
    assert STARLETTE.read(flask_cookie({"n": 1}), NOW) is None


UNSIGNED = [
    *("", ".", "..", "...", "a", "a.b.c", "." * 5000, "eyJhIjoxfQ", "eyJhIjoxfQ..", "=" * 100, '"'),
    *("\xff\xfe", "١.٢.٣", "A" * (MAX_COOKIE_CHARS + 1), "\x00"),
    ".eJyrVkpUslIyVKoFABEjAqc.aaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbb",
]


@EACH
def test_unsigned_text_is_refused(kind: str) -> None:
    app = Application(READERS[kind])

    def check(text: str) -> None:
        assert READERS[kind].read(text, NOW) is None
        session = app.keeper.session(f"session={text}")
        assert session.is_new
        assert app.keeper.save(session) == []

    check_each(UNSIGNED, check)


ODD: dict[str, Any] = {
    "a list": [1, 2],
    "a text": '"text"',
    "null": "null",
    "no JSON": "{",
    "a tuple": {" t": [1]},
    "a tag over a number": {"a": {" t": 5}},
    "a uuid over a number": {"a": {" u": 5}},
    "a uuid over text": {"a": {" u": "no"}},
    "a date over a number": {"a": {" d": 5}},
    "a date over text": {"a": {" d": "yesterday"}},
    "bytes over a number": {"a": {" b": 5}},
    "bytes over other letters": {"a": {" b": "a"}},
    "a guard over a number": {"a": {" di": 5}},
    "a guard over nothing": {"a": {" di": {}}},
    "a guard over two": {"a": {" di": {"b": 1, "c": 2}}},
    "deep": "[" * 3000,
    "deep and closed": '{"a":' * 900 + "1" + "}" * 900,
    "a digit too many": '{"a": 1' + "0" * 5000 + "}",
    "an integer of 5000 bits": '{"a": ' + str(1 << 5000) + "}",
    "a lone surrogate": '{"a": "\\ud800"}',
    "a lone surrogate for a name": '{"\\ud800": 1}',
    "an empty name": '{"": 1}',
    "a long name": '{"' + "n" * 129 + '": 1}',
    "seventeen lists": '{"a": ' + "[" * 17 + "]" * 17 + "}",
}


def test_signed_content_that_no_session_can_contain_gives_no_session() -> None:
    def check(content: Any) -> None:
        app = Application(replace(FLASK, subject="a"))
        session = app.keeper.session(f"session={flask_cookie(content, json_of=AnyJSON)}")
        assert (session.is_new, dict(session), session.subject) == (True, {}, None)
        assert app.keeper.save(session) == []
        assert app.keeper.counts["legacy-refused"] == 1

    check_each(ODD, check)


def test_part_that_no_session_can_carry_does_not_cost_the_login(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def check(content: str) -> None:
        caplog.clear()
        app = Application(replace(FLASK, subject="_user_id"))
        text = f'{{"_user_id": "42", {content[1:]}'
        session = app.keeper.session(f"session={flask_cookie(text, json_of=AnyJSON)}")
        assert (dict(session), session.subject) == ({"_user_id": "42"}, "42")
        assert "a part of a legacy session is not adopted" in caplog.text

    names = ("a lone surrogate", "a lone surrogate for a name", "an empty name", "a long name")
    check_each({name: ODD[name] for name in (*names, "seventeen lists")}, check)


def test_encrypted_cookie_is_refused_outside_its_time() -> None:
    nacl = READERS["aiohttp-nacl"]
    for kind, cookie in (("aiohttp-nacl", nacl_cookie), ("aiohttp-fernet", fernet_cookie)):
        if kind not in READERS:
            continue
        reader = replace(READERS[kind], until=UNTIL + timedelta(days=365))
        text = cookie({"n": 1})
        assert reader.read(text, NOW + 364 * 86400) is not None
        assert reader.read(text, NOW - 1) is None
        brief = replace(reader, max_age=60)
        assert brief.read(text, NOW + 60) is not None
        assert brief.read(text, NOW + 61) is None
        assert brief.read(cookie({"n": 1}, created=NOW - 61), NOW) is None
        assert READERS[kind].read(text, int(UNTIL.timestamp())) is None
    if "litestar" in READERS:
        reader, text = READERS["litestar"], litestar_cookie({"n": 1})
        assert reader.read(text, NOW + 14 * 86400 - 1) is not None
        assert reader.read(text, NOW + 14 * 86400) is None
        # It was made with a longer max_age: nothing says when.
        assert adopt(replace(reader, max_age=60), text).signed_at == 0
    assert nacl.read(nacl_cookie({"n": 1}, created=True), NOW) is None


@EACH
def test_encrypted_content_of_another_kind_gives_no_session(kind: str) -> None:
    odd: list[Any] = [[1], "text", None, 5, {"n": "\ud800"}, {"": 1}]
    for content in odd:
        assert Application(READERS[kind]).is_new(f"session={COOKIES[kind](content)}")


@BOTH
def test_signed_cookie_longer_than_browsers_keep_is_refused(kind: str) -> None:
    large = COOKIES[kind]({"n": os.urandom(MAX_COOKIE_CHARS // 4).hex()})
    assert READERS[kind].read(large, NOW) is not None
    longer = COOKIES[kind]({"n": os.urandom(MAX_COOKIE_CHARS).hex()})
    assert len(longer) > MAX_COOKIE_CHARS
    assert READERS[kind].read(longer, NOW) is None


def test_signed_content_that_is_not_compressed_json_is_refused() -> None:
    for data in (b"", b"no zlib", zlib.compress(b"no JSON"), zlib.compress(b"{}")[:-1]):
        payload = b"." + base64.urlsafe_b64encode(data).rstrip(b"=")
        signer = signer_at(NOW)(
            SECRET, salt="cookie-session", key_derivation="hmac", digest_method=hashlib.sha1
        )
        assert FLASK.read(signer.sign(payload).decode(), NOW) is None


def test_nothing_is_parsed_before_the_signature_is_verified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[str] = []

    def parse(*_: object, **__: object) -> object:
        parsed.append("parsed")
        raise ValueError

    texts = [(kind, COOKIES[kind]({"text": "again and " * 60})) for kind in READERS]
    monkeypatch.setattr(json, "loads", parse)
    monkeypatch.setattr(zlib, "decompress", parse)
    for kind, text in texts:
        at = len(text) - 10
        forged = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
        assert READERS[kind].read(forged, NOW) is None
        assert parsed == []
        assert READERS[kind].read(text, NOW) is None
        assert parsed == ["parsed"]
        parsed.clear()


# --- never beside one of our cookies --------------------------------------------------------------


@EACH
def test_old_cookie_is_never_read_beside_one_of_ours(kind: str) -> None:
    for ours in ("", "x", "AQAA", "A" * 100, "forged", "expired", "foreign key"):
        app = Application(READERS[kind])
        old = f"session={COOKIES[kind]({'n': 1})}"
        value = own_cookie(app, ours)
        for header in (f"__Host-Http-s={value}; {old}", f"{old}; __Host-Http-s={value}"):
            session = app.keeper.session(header)
            assert session.is_new
            assert dict(session) == {}
            assert app.keeper.save(session) == []
        assert app.keeper.counts["adopted"] == app.keeper.counts["legacy-refused"] == 0


def own_cookie(app: Application, how: str) -> str:
    """The value of one of our cookies that cannot be read."""
    keeper = app.keeper
    if how == "foreign key":
        keeper = Keeper(Settings(keys=[Key.generate(os.urandom).export()], clock=app.clock))
    elif how not in ("forged", "expired"):
        return how
    jar, session = Jar(), keeper.session()
    session["n"] = 2
    jar.receive(keeper.save(session))
    value = jar.ours()["__Host-Http-s"]
    if how == "expired":
        app.clock.forward(13 * 3600)
    return value[:-4] + "AAAA" if how == "forged" else value


def test_old_cookie_is_read_in_a_long_header_unless_one_of_ours_is_in_it() -> None:
    app = Application(FLASK)
    header = f"session={flask_cookie({'n': 1})}; x={'y' * (1 << 18)}"
    assert app.keeper.session(header)["n"] == 1
    assert app.is_new(f"{header}; __Host-Http-s=forged")


def test_old_cookie_is_found_in_lines_that_a_server_joined() -> None:
    app = Application(FLASK)
    old, other = (f"session={flask_cookie({'n': number})}" for number in (1, 2))
    for header in (f"a=b,{old}", f"a=b, {old},c=d; e=f", f"{old},a=b", f"a=b,{other}; {old}"):
        assert app.keeper.session(header)["n"] == 1
    assert app.is_new(f"{old},__Host-Http-s=forged")


def test_good_session_outweighs_the_old_cookie() -> None:
    app = Application(FLASK)
    jar, session = Jar(), app.keeper.session()
    session["n"] = "ours"
    jar.receive(app.keeper.save(session))
    header = f"session={flask_cookie({'n': 'old'})}; {jar.header()}"
    assert app.keeper.session(header)["n"] == "ours"


# --- whose session it is --------------------------------------------------------------------------


@pytest.mark.parametrize("subject", ["_user_id", None])
@BOTH
def test_visitors_with_equal_old_cookies_never_share_a_session(
    kind: str, subject: str | None
) -> None:
    app = Application(replace(READERS[kind], subject=subject), part_policies={"address": "server"})
    old = COOKIES[kind]({"lang": "de"})
    ann, bob = jar_with("session", old), jar_with("session", old)
    app.answer(ann, lambda session: session.__setitem__("address", "ann's"))
    app.answer(bob, lambda session: session.__setitem__("address", "bob's"))
    assert app.answer(ann, lambda session: session["address"]) == "ann's"
    ids = {app.answer(jar, lambda session: session.id) for jar in (ann, bob)}
    assert len(ids) == 2

    def sign_in(session: Session) -> None:
        session.subject = "ann"

    app.answer(ann, sign_in)
    app.answer(ann, logout)
    assert app.answer(bob, dict) == {"lang": "de", "address": "bob's"}
    # An old cookie that was not taken over yet still is.
    assert app.answer(jar_with("session", old), dict) == {"lang": "de"}


# --- after a logout -------------------------------------------------------------------------------


def logout(session: Session) -> None:
    session.invalidate()


def sign_in(session: Session) -> None:
    session.subject = str(session["_user_id"])


def read(session: Session) -> object:
    return session["_user_id"]


@EACH
def test_old_cookie_is_refused_after_a_logout(kind: str) -> None:
    old = f"session={COOKIES[kind]({'_user_id': '42'})}"
    cases: list[tuple[str | None, list[Callable[[Session], object]]]] = [
        ("_user_id", [read]),
        (None, []),
    ]
    if kind not in ("flask", "starlette"):
        # The application may also assign the subject, in the first request or later.
        cases += [(None, [sign_in]), (None, [read, sign_in])]
    for subject, before in cases:
        app = Application(replace(READERS[kind], subject=subject))
        jar = jar_with(*old.split("=", 1))
        for view in (*before, logout):
            app.answer(jar, view)
        assert jar.header() == ""
        assert app.is_new(old)
        # As long as old cookies are adopted at all.
        app.clock.now = int(UNTIL.timestamp()) - 1
        assert app.is_new(old)


def test_old_cookie_is_refused_after_a_new_session_id() -> None:
    app = Application(replace(FLASK, subject="_user_id"))
    old = f"session={flask_cookie({'_user_id': '42'})}"
    jar = jar_with(*old.split("=", 1))
    app.answer(jar, lambda session: session.regenerate())
    assert app.answer(jar, lambda session: session["_user_id"]) == "42"
    assert app.is_new(old)


@EACH
def test_rewritten_signature_of_an_old_cookie_is_refused_after_a_logout(kind: str) -> None:
    app = Application(READERS[kind])
    text = COOKIES[kind]({"_user_id": "42"})
    app.answer(jar_with("session", text), logout)
    variants = [*rewrite(text)]
    readable = [variant for variant in variants if READERS[kind].read(variant, NOW)]
    # Or this attack would not exist. What is encrypted is read in its one spelling, or in four.
    assert len(readable) > 3 or kind not in ("flask", "starlette")
    for variant in variants:
        assert app.is_new(f"session={variant}")
        assert app.is_new(f'session="{variant}"')


def rewrite(text: str) -> list[str]:
    """The same cookie with its signature in every spelling that lenient base64 may accept."""
    signed, dot, signature = text.rpartition(".")
    end = signature.rstrip("=")
    last = LETTERS.index(end[-1].translate(URL_SAFE))
    twins = [end[:-1] + LETTERS[last // 4 * 4 + low] for low in range(4)]
    twins += [twin + signature[len(end) :] for twin in twins]
    # itsdangerous skips foreign letters when it decodes base64.
    looser = [f"{signature}=", f"{signature}==", f"={signature}", f"{signature}!", f"!{signature}"]
    looser += [signature[:9] + letter + signature[9:] for letter in ("+", "/", "*", "\n", " ")]
    return [f"{signed}{dot}{each}" for each in [*twins, *looser]]


@EACH
def test_session_id_is_a_function_of_the_old_cookie(kind: str) -> None:
    cookie, reader = COOKIES[kind], READERS[kind]
    first = adopt(reader, cookie({"n": 1}))
    assert adopt(reader, cookie({"n": 1})) == first
    others = [cookie({"n": 2}), cookie({"n": 1}, NOW - 1)]
    ids = {first.id, *(adopt(reader, text).id for text in others)}
    assert len(ids) == 3
    assert all(len(each) == 16 for each in ids)


@EACH
def test_sign_out_everywhere_refuses_old_cookies_signed_until_then(kind: str) -> None:
    app = Application(replace(READERS[kind], subject="_user_id"))
    cookie = COOKIES[kind]
    app.keeper.revoke_subject("42")
    app.clock.forward(10)
    assert app.is_new(f"session={cookie({'_user_id': '42'}, NOW - 5)}")
    # Also what a clock signed that is ahead: a legacy cookie knows of no watermark.
    skew = app.keeper.settings.skew
    app.clock.forward(skew)
    assert app.is_new(f"session={cookie({'_user_id': '42'}, NOW + skew)}")
    assert not app.is_new(f"session={cookie({'_user_id': '42'}, NOW + skew + 1)}")
    assert not app.is_new(f"session={cookie({'_user_id': '43'}, NOW - 5)}")


@EACH
def test_adopted_subject_is_checked_as_any_other(kind: str) -> None:
    app = Application(replace(READERS[kind], subject="_user_id"))
    good: dict[str, object] = {"42": "42", "7": 7}
    for subject, value in good.items():
        jar = jar_with("session", COOKIES[kind]({"_user_id": value}))
        assert app.answer(jar, lambda session: session.subject) == subject
    refused = app.keeper.counts["legacy-refused"]
    bad: list[object] = ["", "u" * 513, "\ud800", True, 1.5, ["ann"], {"id": "ann"}]
    for number, value in enumerate(bad, 1):
        assert app.is_new(f"session={COOKIES[kind]({'_user_id': value})}"), value
        assert app.keeper.counts["legacy-refused"] == refused + number
    for value in (None, {}):
        cookie = COOKIES[kind]({"_user_id": None} if value is None else {"cart": 1})
        assert not app.is_new(f"session={cookie}")


@EACH
def test_without_a_store_a_logout_does_not_refuse_the_old_cookie(kind: str) -> None:
    app = Application(READERS[kind], storage=None)
    old = f"session={COOKIES[kind]({'_user_id': '42'})}"
    app.answer(jar_with(*old.split("=", 1)), logout)
    assert not app.is_new(old)


# --- the reader's configuration -------------------------------------------------------------------


def test_bad_reader_is_refused_at_the_start() -> None:
    good: dict[str, Any] = {"kind": "flask", "secret": SECRET, "until": UNTIL}
    bad: dict[str, Any]
    for bad in (
        {"kind": "rails"},
        {"secret": ""},
        {"secret": b""},
        {"until": datetime(2026, 12, 1)},
        {"max_age": "1 day"},
        {"secret": []},
        {"fetch": "redis://localhost"},
        # In a wrong order, the secret is shown by no message.
        {"kind": SECRET, "secret": "flask"},
        {"until": SECRET},
    ):
        with pytest.raises(ConfigurationError, match=f"legacy: {next(iter(bad))}") as caught:
            LegacyReader(**good | bad)
        assert SECRET not in str(caught.value)


def test_secret_that_is_no_key_is_refused_at_the_start() -> None:
    for kind, secret in (
        ("litestar", b"x" * 33),
        ("aiohttp-nacl", "x" * 31),
        ("aiohttp-fernet", "x" * 32),
        ("aiohttp-fernet", [b"x" * 32, b"x" * 31]),
        ("aiohttp-fernet", "\u2603"),
    ):
        with pytest.raises(ConfigurationError, match="legacy: secret must have"):
            LegacyReader(kind, secret, UNTIL)  # type: ignore[arg-type]


def test_missing_cipher_is_an_error_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealedstate.legacy.find_spec", lambda name: None)
    for kind in ("litestar", "aiohttp-fernet"):
        with pytest.raises(ConfigurationError, match=r"install sealedstate\[legacy\]"):
            LegacyReader(kind, b"x" * 32, UNTIL)
        # A server has the session, and the cookie its key.
        LegacyReader(kind, [], UNTIL, fetch=lambda text: None)
    LegacyReader("aiohttp-nacl", b"x" * 32, UNTIL)


def test_our_cookie_has_no_name_of_an_old_cookie() -> None:
    for name in ("session", "session-3"):
        with pytest.raises(ConfigurationError, match="cookie_name: must differ"):
            Settings(keys=[KEY], cookie_name=name, legacy=litestar_reader())


def test_old_secret_is_not_shown() -> None:
    assert SECRET not in repr(FLASK)
    assert SECRET not in repr(Settings(keys=[KEY], legacy=FLASK))


def test_old_session_that_fits_into_no_cookie_is_read_and_kept() -> None:
    old = flask_cookie({"user": "ada", "large": os.urandom(2500).hex()})
    keeper = Keeper(Settings(keys=[KEY], legacy=FLASK, clock=Clock(NOW)))
    session = keeper.session(f"session={old}")
    assert session["user"] == "ada"
    assert keeper.save(session) == []
    assert keeper.counts["refresh-skipped"] == 1


def test_old_session_that_fits_into_no_cookie_can_be_logged_out() -> None:
    old = flask_cookie({"_user_id": "ada", "large": os.urandom(2500).hex()})
    reader = replace(FLASK, subject="_user_id")
    keeper = Keeper(Settings(keys=[KEY], legacy=reader, clock=Clock(NOW), subject_key="_user_id"))
    session = keeper.session(f"session={old}")
    del session["_user_id"]
    saved = keeper.save(session)
    assert (saved, saved.outcome) == ([reader.delete_line("session")], Outcome.EMPTIED)
    assert keeper.counts["no-room"] == 1
    assert dict(session) == {}


def test_logout_also_deletes_an_old_cookie_that_is_still_sent() -> None:
    old = flask_cookie({"_user_id": "ada"})
    reader = replace(FLASK, subject="_user_id")
    keeper = Keeper(Settings(keys=[KEY], legacy=reader, clock=Clock(NOW)))
    first = keeper.session(f"session={old}")
    assert first.subject == "ada"
    ours = keeper.save(first)[0].partition(";")[0]
    again = keeper.session(f"{ours}; session={old}")
    again.invalidate()
    assert reader.delete_line("session") in keeper.save(again)


# --- sessions that the old backend keeps on a server ----------------------------------------------


class OldStore:
    """Sessions by their keys, which it finds in whatever case, unless it does not answer."""

    def __init__(self) -> None:
        self.answers = True
        self.sessions: dict[str, StoredSession] = {}

    def __call__(self, text: str) -> StoredSession | None:
        if not self.answers:
            raise ConnectionError(text)
        return self.sessions.get(text.lower())

    def keep(self, key: str, saved_at: int | None = NOW - 5, **values: object) -> None:
        self.sessions[key] = StoredSession(key, values, saved_at)


@pytest.fixture
def old_store() -> OldStore:
    return OldStore()


@pytest.mark.parametrize("secret", [[], SECRET])
def test_stored_session_is_adopted_and_refused_after_a_logout(
    old_store: OldStore, secret: Any
) -> None:
    app = Application(LegacyReader("django", secret, UNTIL, max_age=1, fetch=old_store))
    old_store.keep("abc", NOW - 86400, cart=["tea"])
    jar = jar_with("sessionid", "abc")
    for _ in range(2):
        assert app.answer(jar, dict) == {"cart": ["tea"]}
    assert app.keeper.counts["adopted"] == 1
    assert "sessionid" not in jar.header()
    app.answer(jar, logout)
    for text in ("abc", "ABC", "aBc"):
        assert app.is_new(f"sessionid={text}")
    assert app.is_new("sessionid=abd")


def test_store_of_old_sessions_is_not_asked_about_what_a_secret_signed() -> None:
    reader = replace(FLASK, fetch=lambda text: pytest.fail(text))
    assert adopt(reader, flask_cookie({"n": 1})).values == {"n": 1}


def test_sign_out_everywhere_refuses_stored_sessions_of_before_or_of_an_unknown_time(
    old_store: OldStore,
) -> None:
    app = Application(LegacyReader("flask", [], UNTIL, subject="_user_id", fetch=old_store))
    for user, saved_at in (("42", NOW - 5), ("43", NOW + 1000), ("42", None), ("44", None)):
        old_store.keep(f"{user}-{saved_at}".lower(), saved_at, _user_id=user)
    app.keeper.revoke_subject("42")
    app.keeper.revoke_subject("43")
    app.clock.forward(2000)
    assert app.is_new(f"session=42-{NOW - 5}")
    assert app.is_new("session=42-none")
    assert not app.is_new(f"session=43-{NOW + 1000}")
    assert not app.is_new("session=44-none")


def test_old_store_may_have_other_types_and_may_not_answer(
    old_store: OldStore, caplog: pytest.LogCaptureFixture
) -> None:
    reader = LegacyReader("flask", [], UNTIL, fetch=old_store)
    keeper = Keeper(Settings(keys=KEY, clock=Clock(NOW), legacy=reader, convert=plain))
    old_store.answers = False
    session = keeper.session("session=old")
    session["cart"] = ["rice"]
    assert session.withheld == UncheckedSession.reason
    assert keeper.save(session) == []
    assert "does not answer: ConnectionError" in caplog.text
    old_store.answers = True
    old_store.keep("old", cart=OrderedDict(tea=1))
    session = keeper.session("session=old")
    assert session["cart"] == {"tea": 1}
    kept, deleted = keeper.save(session)
    assert deleted.startswith("session=;")
    assert dict(keeper.session(kept.partition(";")[0])) == {"cart": {"tea": 1}}

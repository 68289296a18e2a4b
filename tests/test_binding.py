"""Device-bound sessions: a copied cookie does not open them, and no forged proof counts."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="not installed: cryptography")

from sealedstate import ConfigurationError, Keeper, Settings
from sealedstate._wire.record import DEVICE
from sealedstate.binding import CHALLENGE_SECONDS, SessionBinding
from sealedstate.storage import MemoryStorage
from sealedstate.testing import ManualClock, ScriptedStorage
from tests.support.bound_browser import (
    REFRESH,
    REGISTER,
    BoundBrowser,
    DeviceKey,
    base64url,
    bound,
    challenge_of,
)
from tests.support.jar import Browser, keeper

LIFE = 300
# The order of P-256.
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def node(clock: ManualClock, **given: Any) -> Keeper:
    weak = ["revocation", "binding"]
    return keeper(clock, binding_path="/session-binding", accept_weak_store_for=weak, **given)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["store", "no store"])
def site(request: pytest.FixtureRequest, clock: ManualClock) -> Keeper:
    return node(clock, storage=ScriptedStorage(clock) if request.param == "store" else None)


@pytest.fixture
def browser(site: Keeper) -> BoundBrowser:
    return bound(site)


def refused(keeper: Keeper) -> str:
    """The reasons for which proofs were refused."""
    return " ".join(each[14:] for each in keeper.counts if each.startswith("proof-refused-"))


# --- what a session owes to its key ---------------------------------------------------------------


def test_sign_in_offers_to_bind_the_session_and_nothing_else_does(site: Keeper) -> None:
    browser = BoundBrowser(site)
    assert browser.visit(lambda session: session.update(cart=[1])) == ""
    assert browser.sign_in() != ""
    assert browser.visit() == ""
    assert browser.session().subject == "ann"
    assert not browser.session().is_bound


def test_bound_session_opens_in_its_browser_under_a_new_id(site: Keeper) -> None:
    browser = BoundBrowser(site)
    challenge = browser.sign_in()
    before = browser.session().id
    answer = browser.register(challenge)
    document = json.loads(answer.body)
    assert document["refresh_url"] == REFRESH
    assert document["credentials"] == [
        {
            "type": "cookie",
            "name": "__Host-s-bound",
            "attributes": "Path=/; Secure; HttpOnly; SameSite=Lax",
        }
    ]
    line = dict(answer.headers)["Set-Cookie"]
    assert line.endswith("; Max-Age=240; Path=/; Secure; HttpOnly; SameSite=Lax")
    session = browser.session()
    assert (session.subject, session.is_bound) == ("ann", True)
    assert session.id != before


def test_copied_cookie_opens_nothing(browser: BoundBrowser, site: Keeper) -> None:
    thief = browser.steal()
    session = thief.session()
    assert (session.subject, session.withheld, session.refusal) == (None, "unbound", "withheld")
    session["cart"] = [1]
    assert site.save(session) == []
    assert thief.post(REFRESH, thief.key.prove(thief.ask())).status == 403
    assert refused(site) == "signature"
    assert browser.session().subject == "ann"


def test_copy_with_the_bound_cookie_is_refused_once_that_has_expired(
    browser: BoundBrowser, clock: ManualClock
) -> None:
    thief = browser.steal(with_bound=True)
    clock.forward(LIFE - 1)
    assert thief.session().subject == "ann"
    clock.forward(1)
    assert thief.session().withheld == "unbound"
    assert browser.refresh().status == 200
    assert browser.session().subject == "ann"
    assert thief.session().withheld == "unbound"


def test_bound_cookie_is_renewed_as_long_as_the_session_lives(
    browser: BoundBrowser, clock: ManualClock, site: Keeper
) -> None:
    for _ in range(10):
        clock.forward(LIFE - 1)
        assert browser.refresh().status == 200
        browser.visit()
        assert browser.session().subject == "ann"
    assert site.counts["bound-renewed"] == 10


def test_cookie_from_before_the_binding_is_refused_with_a_store(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    site = node(clock, storage=ScriptedStorage(clock))
    browser = BoundBrowser(site)
    challenge = browser.sign_in()
    thief = browser.steal()
    assert thief.session().subject == "ann"
    with caplog.at_level("INFO", "sealedstate"):
        browser.register(challenge)
    assert "a cookie from before is refused from now on" in caplog.text
    assert thief.session().withheld == "replaced"
    clock.forward(61)
    assert thief.session().refusal == "signed-out"


def test_cookie_from_before_the_binding_opens_without_a_store_and_an_event_says_so(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    browser = BoundBrowser(node(clock))
    challenge = browser.sign_in()
    thief = browser.steal()
    with caplog.at_level("INFO", "sealedstate"):
        browser.register(challenge)
    assert "a cookie from before opens until it expires" in caplog.text
    assert thief.session().subject == "ann"


def test_new_id_keeps_the_key_and_a_new_sign_in_does_not(browser: BoundBrowser) -> None:
    browser.visit(lambda session: session.regenerate())
    assert browser.session().is_bound
    assert browser.steal().session().withheld == "unbound"
    assert browser.refresh().status == 200
    challenge = browser.sign_in("ann")
    assert not browser.session().is_bound
    assert browser.session().subject == "ann"
    browser.key = DeviceKey()
    assert browser.register(challenge).status == 200
    assert browser.session().is_bound


def test_limits_and_parts_of_a_bound_session_are_kept(browser: BoundBrowser) -> None:
    browser.visit(lambda session: session.limit(idle=600))
    browser.visit(lambda session: session.update(cart=["tea"]))
    session = browser.session()
    assert (session["cart"], session.is_bound, session.idle_limit) == (["tea"], True, 600)


def test_sign_in_replaces_a_session_whose_browser_has_lost_its_key(
    browser: BoundBrowser, clock: ManualClock
) -> None:
    clock.forward(LIFE)
    assert browser.session().withheld == "unbound"
    browser.sign_in("ann")  # the browser ignores the offer
    clock.forward(LIFE)
    assert browser.session().subject == "ann"


def test_logout_deletes_the_bound_cookie_and_ends_the_binding(
    browser: BoundBrowser, site: Keeper
) -> None:
    browser.visit(lambda session: session.invalidate())
    assert browser.jar.header() == ""
    answer = browser.post(REFRESH)
    assert json.loads(answer.body)["continue"] is False
    assert answer.status == 200


def test_logout_of_an_unbound_cookie_is_recorded(clock: ManualClock) -> None:
    browser = bound(node(clock, storage=ScriptedStorage(clock)))
    browser.steal().visit(lambda session: session.invalidate())
    assert browser.session().refusal == "signed-out"


@pytest.mark.parametrize("policy", ["sign-in", "report"])
def test_policies_of_a_session_that_comes_unbound(clock: ManualClock, policy: str) -> None:
    site = node(clock, on_unbound=policy)
    browser = bound(site)
    thief = browser.steal()
    session = thief.session()
    if policy == "report":
        assert session.subject == "ann"
        assert site.counts["unbound"] == 1
    else:
        assert (session.subject, session.withheld, session.refusal) == (None, None, "expired")
        thief.visit(lambda session: session.update(cart=[1]))
        assert thief.session()["cart"] == [1]
    clock.forward(LIFE)
    assert browser.refresh().status == 200
    assert browser.session().subject == "ann"


def test_node_without_the_path_enforces_the_binding(clock: ManualClock) -> None:
    browser = bound(node(clock))
    other = keeper(clock)
    assert Browser(other, browser.jar).session().subject == "ann"
    assert Browser(other, browser.steal().jar).session().withheld == "unbound"


# --- which proofs count ---------------------------------------------------------------------------


def test_challenge_counts_for_a_minute(browser: BoundBrowser, clock: ManualClock) -> None:
    challenge = browser.ask()
    clock.forward(CHALLENGE_SECONDS)
    answer = browser.post(REFRESH, browser.key.prove(challenge))
    assert answer.status == 403
    again = challenge_of(dict(answer.headers)["Secure-Session-Challenge"])
    assert browser.post(REFRESH, browser.key.prove(again)).status == 200


def test_offer_counts_for_a_minute(site: Keeper, clock: ManualClock) -> None:
    browser = BoundBrowser(site)
    challenge = browser.sign_in()
    clock.forward(CHALLENGE_SECONDS)
    assert browser.register(challenge).status == 403
    assert browser.session().subject == "ann"
    assert refused(site) == "challenge"


@pytest.mark.parametrize("has_store", [False, True])
def test_replayed_proof_is_refused_with_a_store(clock: ManualClock, has_store: bool) -> None:
    site = node(clock, storage=ScriptedStorage(clock) if has_store else None)
    browser = bound(site)
    thief = browser.steal()
    proof = browser.key.prove(browser.ask())
    assert browser.post(REFRESH, proof).status == 200
    assert thief.post(REFRESH, proof).status == (403 if has_store else 200)
    assert thief.session().subject == (None if has_store else "ann")
    clock.forward(CHALLENGE_SECONDS)
    assert thief.post(REFRESH, proof).status == 403


def test_key_is_registered_once(site: Keeper) -> None:
    browser = BoundBrowser(site)
    challenge = browser.sign_in()
    proof = browser.key.prove(challenge, is_new=True)
    assert browser.post(REGISTER, proof).status == 200
    assert browser.post(REGISTER, proof).status == 403
    other = DeviceKey().prove(browser.ask(), is_new=True)
    assert browser.post(REGISTER, other).status == 403
    assert refused(site) == "session"


def test_proofs_of_other_sessions_and_other_keys_are_refused(site: Keeper) -> None:
    ann, bob = bound(site), bound(site)
    assert ann.post(REFRESH, bob.key.prove(ann.ask())).status == 403
    assert ann.post(REFRESH, bob.key.prove(bob.ask())).status == 403
    assert ann.post(REFRESH, ann.key.prove(bob.ask())).status == 403
    visitor = BoundBrowser(site)
    eve = BoundBrowser(site)
    challenge = eve.sign_in("eve")
    assert visitor.register(challenge).status == 403  # it has no session
    visitor.sign_in("ann")
    assert visitor.register(challenge).status == 403  # the challenge is of another
    assert visitor.register(ann.ask()).status == 403  # nor for a new key
    assert not visitor.session().is_bound


def test_only_posts_are_answered(browser: BoundBrowser) -> None:
    answer = browser.post(REFRESH, method="GET")
    assert answer.status == 405
    assert ("Allow", "POST") in answer.headers


def test_browser_keeps_its_key_while_the_store_does_not_answer(clock: ManualClock) -> None:
    store = ScriptedStorage(clock)
    browser = bound(node(clock, storage=store))
    proof = browser.key.prove(browser.ask())
    store.fail("create", times=1)
    assert browser.post(REFRESH, proof).status == 503
    store.fail("read", times=1)
    assert browser.post(REFRESH, proof).status == 503
    assert browser.refresh().status == 200


def test_names_of_bindings_differ_by_host_and_stay_with_a_new_sign_in(site: Keeper) -> None:
    browser = BoundBrowser(site)
    names = []
    for host in ("a.example", "a.example", "b.example"):
        browser.host, browser.key = host, DeviceKey()
        names.append(json.loads(browser.register(browser.sign_in()).body)["session_identifier"])
    assert names[0] == names[1] != names[2]


# --- the form of a proof --------------------------------------------------------------------------


def point_off_the_curve() -> dict[str, str]:
    return DeviceKey().jwk | {"x": base64url(bytes(32))}


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT"},
        {"typ": None},
        {"alg": "none"},
        {"alg": "RS256"},
        {"alg": "HS256"},
        {"crit": ["exp"]},
        {"jwk": None},
        {"jwk": "key"},
        {"jwk": point_off_the_curve()},
        {"jwk": DeviceKey().jwk | {"crv": "P-384"}},
        {"jwk": DeviceKey().jwk | {"kty": "OKP"}},
        {"jwk": DeviceKey().jwk | {"d": base64url(bytes(32))}},
        {"jwk": DeviceKey().jwk | {"x": base64url(bytes(31))}},
        {"jwk": DeviceKey().jwk | {"y": 7}},
        {"jwk": DeviceKey().jwk | {"y": "=" * 43}},
        {"jwk": {}},
    ],
)
def test_proof_with_another_header_is_refused(clock: ManualClock, header: dict[str, Any]) -> None:
    browser = BoundBrowser(node(clock))
    challenge = browser.sign_in()
    proof = browser.key.prove(challenge, is_new=True, header=header)
    assert browser.post(REGISTER, proof).status == 403
    assert not browser.session().is_bound


@pytest.mark.parametrize(
    "claims", [{"jti": None}, {"jti": 7}, {"jti": ""}, {"jti": "x" * 257}, {"jti": ["x"]}]
)
def test_proof_without_a_challenge_is_refused(clock: ManualClock, claims: dict[str, Any]) -> None:
    browser = bound(node(clock))
    proof = browser.key.prove(browser.ask(), claims=claims)
    assert browser.post(REFRESH, proof).status == 403


@pytest.mark.parametrize(
    "claims",
    [
        '{"jti":"CHALLENGE","jti":"CHALLENGE"}',
        '["CHALLENGE"]',
        '{"jti":"CHALLENGE","n":NaN}',
        '{"jti":"CHALLENGE"} {}',
        '{"jti":"CHALLENGE","deep":' + "[" * 700 + "]" * 700 + "}",
        '\ufeff{"jti":"CHALLENGE"}',
        "",
    ],
)
def test_claims_that_are_no_strict_json_are_refused(clock: ManualClock, claims: str) -> None:
    browser = bound(node(clock))
    header = base64url(b'{"alg":"ES256","typ":"dbsc+jwt"}')
    text = claims.replace("CHALLENGE", browser.ask())
    proof = browser.key.sign(f"{header}.{base64url(text.encode())}")
    assert browser.post(REFRESH, proof).status == 403


def respell(proof: str) -> Iterator[str]:
    """Other spellings of a proof, and signatures of other forms."""
    header, claims, signature = proof.split(".")
    raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
    yield f"{header}=.{claims}.{signature}"
    yield f"{proof}=="
    yield f"{proof} "
    yield f" {proof}"
    yield f"{proof}.{signature}"
    yield f"{header}.{claims}"
    yield f"{header}.{claims}."
    yield proof[:-1] + chr(ord(proof[-1]) + 1)  # the last letter has unused bits
    yield f"{header}.{claims}.{base64url(bytes(raw[:-1]))}"
    yield f"{header}.{claims}.{base64url(bytes(raw) + b'0')}"
    yield f"{header}.{claims}.{base64url(bytes(64))}"
    yield f"{header}.{claims}.{base64url(bytes(32) + bytes(raw[32:]))}"
    yield f"{header}.{claims}.{base64url(ORDER.to_bytes(32, 'big') + bytes(raw[32:]))}"
    yield f"{header}.{claims}.{base64url(bytes([0x30, 0x44, 2, 32]) + bytes(raw)[:60])}"
    yield f'"{proof}'
    yield f"{proof}, {proof}"
    yield "x" * 100_000


def test_proof_has_one_spelling(clock: ManualClock) -> None:
    browser = bound(node(clock))
    proof = browser.key.prove(browser.ask())
    for other in respell(proof):
        assert browser.post(REFRESH, other).status == 403, other[:100]
    # As a string of structured fields it is the same proof.
    assert browser.post(REFRESH, f'"{proof}"').status == 200


ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=*"é\0'


def mutate(proof: str, chance: random.Random) -> str:
    """A proof that differs from this one, which was signed, in a few places."""
    if chance.random() < 0.5:
        # A bit of what is signed or of the signature, in the only spelling of those bytes.
        segments = proof.split(".")
        number = chance.randrange(3)
        raw = bytearray(base64.urlsafe_b64decode(segments[number] + "=="))
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        segments[number] = base64url(bytes(raw))
        return ".".join(segments)
    letters = list(proof)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        place = chance.randrange(len(letters))
        kind = chance.randrange(4)
        if kind == 0:
            letters[place] = chance.choice(ALPHABET)
        elif kind == 1:
            del letters[place]
        elif kind == 2:
            letters.insert(place, chance.choice(ALPHABET))
        else:
            end = min(len(letters), place + chance.randrange(1, 40))
            letters[place:end] = reversed(letters[place:end])
    return "".join(letters)


def check_mutations(clock: ManualClock, count: int) -> None:
    """No proof that was altered after it was signed counts, for a new key or for a known one."""
    chance = random.Random(count)
    visitor, owner = BoundBrowser(node(clock)), bound(node(clock))
    new = visitor.key.prove(visitor.sign_in(), is_new=True)
    known = owner.key.prove(owner.ask())
    for _ in range(count):
        for browser, path, proof in ((visitor, REGISTER, new), (owner, REFRESH, known)):
            altered = mutate(proof, chance)
            if altered not in (proof, f'"{proof}"'):
                assert browser.post(path, altered).status == 403, altered
    assert owner.post(REFRESH, known).status == 200
    assert visitor.post(REGISTER, new).status == 200


def test_altered_proofs_are_refused(clock: ManualClock) -> None:
    check_mutations(clock, 150)


@pytest.mark.soak
def test_many_altered_proofs_are_refused(clock: ManualClock) -> None:
    check_mutations(clock, 50_000)


def check_true_proofs(clock: ManualClock, count: int) -> None:
    for number in range(count):
        has_store = number % 2 == 0
        site = node(clock, storage=ScriptedStorage(clock) if has_store else None)
        browser = bound(site)
        clock.forward(1)
        assert browser.refresh().status == 200
        assert browser.session().subject == "ann"


def test_true_proofs_are_accepted(clock: ManualClock) -> None:
    check_true_proofs(clock, 10)


@pytest.mark.soak
def test_many_true_proofs_are_accepted(clock: ManualClock) -> None:
    check_true_proofs(clock, 500)


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"binding_path": "session-binding"},
        {"binding_path": "/"},
        {"binding_path": "/a//b"},
        {"binding_path": "/a/"},
        {"binding_path": '/a"b'},
        {"binding_path": "/app2/binding", "cookie_path": "/app"},
        {"binding_path": "/binding", "secure": False},
        {"binding_path": "/binding", "cookie_domain": "example.org"},
        {"binding_path": "/binding", "same_site": "None", "partitioned": True},
        {"bound_lifetime": 4},
        {"bound_lifetime": 3601},
        {"on_unbound": "ignore"},
    ],
)
def test_settings_that_bind_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"^(binding_path|bound_lifetime|on_unbound): "):
        Settings(keys="env:", **given)


def test_store_that_is_not_shared_is_refused(clock: ManualClock) -> None:
    weak = keeper(
        clock,
        storage=MemoryStorage(clock),
        accept_weak_store_for=["revocation"],
        binding_path="/session-binding",
    )
    with pytest.raises(ConfigurationError, match="binding needs a store"):
        SessionBinding(weak)


def test_no_path_no_binding(clock: ManualClock) -> None:
    with pytest.raises(ConfigurationError, match="binding_path: must be set"):
        SessionBinding(keeper(clock))


@pytest.mark.parametrize(
    ("name", "bound_name"),
    [(None, "__Host-s-bound"), ("app", "app-bound"), ("__Http-app", "__Secure-app-bound")],
)
def test_bound_cookie_has_a_prefix_that_browsers_bind(name: str | None, bound_name: str) -> None:
    family = Settings(keys="env:", cookie_name=name).cookie_family()
    assert family.bound_name == bound_name


def test_key_is_a_critical_field_of_33_bytes(browser: BoundBrowser, site: Keeper) -> None:
    codec, clock = site.deployment.codec, site.deployment.now
    text = browser.jar.ours()["__Host-Http-s"]
    fields = codec.open_text(text, int(clock())).record.fields
    assert list(fields) == [DEVICE]
    assert len(fields[DEVICE]) == 33

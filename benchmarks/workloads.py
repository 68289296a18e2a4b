"""The standard workloads: one session in five sizes, made from a seed.

Knows the sessions of an identity provider and what an application would store of them: W0 is an
integer and a CSRF secret, W1 a session with one authentication, W2, W3 and W4 are W1 with 5, 20
and 100 service logins. The same name, seed and entityIDs make the same session, and the sessions
of one seed contain one another. Does not know how anybody stores them, or how large they become.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random

ENTITY_IDS = Path(__file__).with_name("entity_ids.txt")

LOGINS = {"W1": 0, "W2": 5, "W3": 20, "W4": 100}
NAMES = ("W0", *LOGINS)

# A workload is a pure function of its seed, so its clock stands still.
NOW = 1_790_000_000
SIX_HOURS = 6 * 3600
AUTHN_DURATION = 28_800

USUAL_METHOD = "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport"
OTHER_METHODS = (
    "urn:oasis:names:tc:SAML:2.0:ac:classes:Password",
    "urn:oasis:names:tc:SAML:2.0:ac:classes:unspecified",
    "urn:oasis:names:tc:SAML:2.0:ac:classes:X509",
    "urn:oasis:names:tc:SAML:2.0:ac:classes:TLSClient",
    "urn:oasis:names:tc:SAML:2.0:ac:classes:Kerberos",
    "urn:oasis:names:tc:SAML:2.0:ac:classes:PreviousSession",
    "urn:oasis:names:tc:SAML:2.0:ac:classes:TimeSyncToken",
    "urn:oasis:names:tc:SAML:2.0:ac:classes:MobileTwoFactorContract",
    "urn:federation:authentication:windows",
    "https://refeds.org/profile/mfa",
    "https://refeds.org/profile/sfa",
    "http://schemas.microsoft.com/claims/multipleauthn",
)

PEOPLE = ("jdoe", "asmith", "mgarcia", "lchen", "k.mueller", "sophie.martin", "tnguyen", "p.rossi")
DOMAINS = ("example.edu", "example.org", "uni.example", "cs.example.edu", "student.example.edu")


@dataclass(frozen=True, slots=True)
class Authn:
    """When, for how long and how the user proved who they are."""

    time: int
    duration: int
    method: str

    def plain(self) -> dict[str, object]:
        return {"time": self.time, "duration": self.duration, "method": self.method}


@dataclass(frozen=True, slots=True)
class ServiceLogin:
    """What logout has to tell one service, and when the user went there."""

    entity_id: str
    method: str
    name_id: str
    session_index: str
    time: int

    def plain(self) -> dict[str, object]:
        """The four keys that applications store. The time stays out of every row alike."""
        return {
            "entity_id": self.entity_id,
            "method": self.method,
            "name_id": self.name_id,
            "session_index": self.session_index,
        }


@dataclass(frozen=True, slots=True)
class Workload:
    """One session: its frame (id, subject, expiry) and what the application puts into it."""

    name: str
    parts: dict[str, object]
    subject: str | None = None
    frame: dict[str, object] = field(default_factory=dict)
    services: tuple[ServiceLogin, ...] = ()

    def plain(self) -> dict[str, object]:
        """The dict of readable keys that a session without a frame of its own has to hold."""
        values = self.frame | self.parts
        return {key: v.hex() if isinstance(v, bytes) else v for key, v in values.items()}


def make_workload(name: str, seed: int, entity_ids: Sequence[str]) -> Workload:
    """W0 to W4."""
    if name == "W0":
        return _make_visit(Random(seed))
    return make_signed_in(LOGINS[name], seed, entity_ids, name)


def make_signed_in(logins: int, seed: int, entity_ids: Sequence[str], name: str = "") -> Workload:
    """W1 with so many service logins. Fewer logins of one seed are a prefix of more."""
    random = Random(seed)
    session_id, subject = random.randbytes(16), _make_subject(random)
    authn = Authn(NOW - random.randrange(SIX_HOURS), AUTHN_DURATION, _make_method(random))
    services = tuple(islice(_make_logins(random, subject, authn, entity_ids), logins))
    return Workload(
        name or f"W1+{logins}",
        parts={"authn": [authn.plain()], "services": [login.plain() for login in services]},
        subject=subject,
        frame={"id": session_id, "user": subject, "expires": authn.time + authn.duration},
        services=services,
    )


def make_small(seed: int) -> Workload:
    """A subject, a CSRF secret and three small values: what most applications keep."""
    random = Random(seed)
    subject, csrf = _make_subject(random), random.randbytes(16)
    parts: dict[str, object] = {"csrf": csrf, "lang": "en", "theme": "dark", "visits": 42}
    return Workload("small", parts, subject, frame={"user": subject})


def read_entity_ids(path: Path) -> list[str]:
    """One entityID a line; what stands there twice counts once."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def _make_visit(random: Random) -> Workload:
    return Workload("W0", {"user_id": random.randint(10_000, 99_999), "csrf": random.randbytes(16)})


def _make_subject(random: Random) -> str:
    return f"{random.choice(PEOPLE)}@{random.choice(DOMAINS)}"


def _make_method(random: Random) -> str:
    return USUAL_METHOD if random.random() < 0.7 else random.choice(OTHER_METHODS)


def _make_logins(
    random: Random, subject: str, authn: Authn, entity_ids: Sequence[str]
) -> Iterator[ServiceLogin]:
    for entity_id in _draw_entity_ids(random, entity_ids):
        yield ServiceLogin(
            entity_id,
            authn.method,
            name_id=_make_name_id(random, subject),
            session_index=_make_handle(random),
            time=random.randint(authn.time, NOW),
        )


def _draw_entity_ids(random: Random, entity_ids: Sequence[str]) -> Iterator[str]:
    """All of them in a random order, then invented ones without end."""
    yield from random.sample(entity_ids, len(entity_ids))
    number = len(entity_ids)
    while True:
        host = f"{random.choice(('sp', 'moodle', 'wiki', 'library', 'cloud'))}-{number}"
        yield f"https://{host}.example.{random.choice(('edu', 'org', 'net'))}/shibboleth"
        number += 1


def _make_name_id(random: Random, subject: str) -> str:
    """60 % transient, 25 % persistent, 15 % equal to the subject."""
    kind = random.random()
    if kind < 0.60:
        return _make_handle(random)
    return _make_persistent(random) if kind < 0.85 else subject


def _make_handle(random: Random) -> str:
    return "_" + random.randbytes(16).hex()


def _make_persistent(random: Random) -> str:
    return b64encode(random.randbytes(random.choice((20, 32)))).decode("ascii")

"""Writes fresh tokens of all kinds for the decoder in JavaScript, one JSON object a line.

    python -m tests.wire.fresh_tokens 100000 seed | node decoders/javascript/fresh.mjs

`fresh.mjs` describes the lines. A token has random content, and each group of tokens has keys, a
realm and a cookie's name of its own.
"""

from __future__ import annotations

import json
import random
import string
import struct
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from markupsafe import Markup

from sealedstate import Key, Protector, UnsupportedValue
from sealedstate._cookies.codec import CookieCodec
from sealedstate._stored.parts import CONTEXT, StoredParts
from sealedstate._stored.revocations import (
    SESSIONS,
    SUBJECTS,
    Ending,
    Revocations,
    Successor,
    subject_mark,
)
from sealedstate._wire import cbor
from sealedstate._wire.encoding import from_text, to_text
from sealedstate._wire.record import NO_TERMS, OverflowSet, Record, Terms, encode_record
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring, export_lookup
from sealedstate.storage import MemoryStorage
from tests.support.stored import access_of

GROUP = 500
MICROSECOND = timedelta(microseconds=1)
Line = dict[str, Any]


def describe(value: object) -> object:
    """A value as the JSON of the vectors."""
    match value:
        case None | bool():
            return value
        case Markup():
            return {"markup": str(value)}
        case str():
            return value
        case int():
            return {"int": str(value)}
        case float():
            return {"float": struct.pack(">d", float("nan") if value != value else value).hex()}
        case bytes():
            return {"bytes": value.hex()}
        case list():
            return {"list": [describe(item) for item in value]}
        case tuple():
            return {"tuple": [describe(item) for item in value]}
        case set():
            return {"set": [describe(item) for item in value]}
        case dict():
            return {"dict": [[describe(key), describe(item)] for key, item in value.items()]}
        case datetime():
            wall = (value.replace(tzinfo=None) - datetime(1970, 1, 1)) // MICROSECOND
            offset = value.utcoffset()
            seconds = None if offset is None else offset.total_seconds()
            return {"datetime": [str(wall), seconds, value.fold]}
        case date():
            return {"date": (value - date(1970, 1, 1)).days}
        case timedelta():
            return {"timedelta": str(value // MICROSECOND)}
        case UUID():
            return {"uuid": str(value)}
        case Decimal():
            return {"decimal": str(value)}
    raise AssertionError(type(value))


class Source:
    """Random content, the same for the same seed."""

    def __init__(self, seed: str) -> None:
        self.draw = random.Random(seed)

    def text(self, most: int = 12) -> str:
        letters = 'aZ09 \0\n"\\/ä߀\ufeff\uffff\U0001f600\U0010ffff\x7f'
        return "".join(self.draw.choices(letters, k=self.draw.randint(0, most)))

    def integer(self) -> int:
        if self.draw.random() < 0.3:
            edge = 1 << self.draw.choice((0, 5, 8, 16, 32, 53, 63, 64, 65, 4095))
            return self.draw.choice((1, -1)) * (edge + self.draw.randint(-2, 2))
        return self.draw.getrandbits(self.draw.randint(0, 90)) * self.draw.choice((1, -1))

    def float(self) -> float:
        if self.draw.random() < 0.4:
            return self.draw.choice(
                (0.0, -0.0, 1.0, 1.5, 2.0**64, float("nan"), float("inf"), -float("inf"), 5e-324)
            )
        (found,) = struct.unpack(">d", self.draw.randbytes(8))
        return float(found)

    def decimal(self) -> Decimal:
        if self.draw.random() < 0.2:
            return Decimal(self.draw.choice(("NaN", "-NaN", "NaN7", "Infinity", "-Infinity")))
        digits = "".join(self.draw.choices("0019", k=self.draw.randint(1, 9)))
        sign = self.draw.choice(("", "-"))
        return Decimal(f"{sign}{digits}E{self.draw.randint(-20, 12)}")

    def moment(self) -> datetime:
        draw = self.draw
        year = draw.choice((1, 1969, 1970, 2026, 2026, 2026, 9999))
        naive = datetime(year, draw.randint(1, 12), draw.randint(1, 28), draw.randint(0, 23))
        naive = naive.replace(microsecond=draw.choice((0, 1, 999_999)), fold=draw.randint(0, 1))
        kind = draw.randint(0, 3)
        if kind == 0:
            return naive
        if kind == 1 and year == 2026:
            changes = (datetime(2026, 3, 29, 2, 30), datetime(2026, 10, 25, 2, 30), naive)
            change = draw.choice(changes).replace(fold=naive.fold)
            return change.replace(tzinfo=ZoneInfo("Europe/Berlin"))
        offset = draw.choice((0, 3600, -3600, 20700, draw.randint(-86399, 86399)))
        more = draw.choice((0, 0, draw.randint(-999_999, 999_999)))
        away = timedelta(seconds=offset, microseconds=more)
        return naive.replace(tzinfo=timezone(away) if kind == 2 else UTC)

    def scalar(self) -> Any:
        draw = self.draw
        makers: tuple[Callable[[], Any], ...] = (
            lambda: draw.choice((None, True, False)),
            self.integer,
            self.integer,
            self.float,
            self.text,
            self.text,
            lambda: draw.randbytes(draw.choice((0, 1, 16, 24, 300))),
            lambda: Markup(self.text()),
            self.decimal,
            self.moment,
            lambda: date.fromordinal(draw.randint(1, date.max.toordinal())),
            lambda: timedelta(microseconds=self.integer() % (1 << 66)) * draw.choice((1, -1)),
            lambda: UUID(bytes=draw.randbytes(16)),
        )
        return draw.choice(makers)()

    def member(self, depth: int = 3) -> Any:
        if depth and self.draw.random() < 0.2:
            return tuple(self.member(depth - 1) for _ in range(self.draw.randint(0, 3)))
        return self.scalar()

    def value(self, depth: int = 3) -> Any:
        draw = self.draw
        count = draw.choice((0, 1, 2, 3, 5, 24 if depth == 3 else 4))
        kind = draw.randint(0, 7) if depth else 7
        if kind == 0:
            return [self.value(depth - 1) for _ in range(count)]
        if kind == 1:
            return tuple(self.value(depth - 1) for _ in range(count))
        if kind == 2:
            return {self.member() for _ in range(count)}
        if kind == 3:
            return {self.member(): self.value(depth - 1) for _ in range(count)}
        if kind == 4:
            return {self.text(): self.value(depth - 1) for _ in range(count)}
        return self.scalar()

    def encoded(self) -> tuple[Any, bytes]:
        """A value and its encoding."""
        while True:
            try:
                value = self.value()
                return value, cbor.encode(value)
            except (UnsupportedValue, OverflowError):
                continue  # two equal members, or a time span that is too long

    def encodings(self, most: int) -> tuple[dict[str, object], dict[str, bytes]]:
        """Descriptions and encodings of parts."""
        names = {self.text() for _ in range(self.draw.randint(0, most))}
        made = {name: self.encoded() for name in sorted(names, key=lambda _: self.draw.random())}
        described = {name: describe(value) for name, (value, _) in made.items()}
        return described, {name: data for name, (_, data) in made.items()}

    def versions(self, prefix: str) -> dict[str, int]:
        names = [f"{prefix}{number}" for number in range(self.draw.choice((0, 0, 0, 1, 3)))]
        return {name: self.draw.randint(1, (1 << 53) - 1) for name in names}

    def terms(self) -> Terms:
        draw = self.draw
        idle = draw.choice((None, draw.randint(1, (1 << draw.choice((8, 16, 24, 32))) - 1)))
        found = Terms(draw.choice((None, True, False)), idle, draw.choice((True, False)))
        return NO_TERMS if found == NO_TERMS or draw.random() < 0.3 else found

    def fields(self) -> dict[int, bytes]:
        numbers = self.draw.sample([*range(128, 253), 254], self.draw.choice((0, 0, 1, 3)))
        return {number: self.draw.randbytes(self.draw.randint(0, 60)) for number in sorted(numbers)}


class Group:
    """Tokens of one deployment."""

    def __init__(self, source: Source) -> None:
        self.source, self.draw = source, source.draw
        self.now = self.draw.randint(1, (1 << 34))
        keys = [Key.generate(self.draw.randbytes) for _ in range(self.draw.randint(1, 3))]
        self.lookup = self.draw.randbytes(32)
        self.ring = Keyring(tuple(keys), self.draw.randint(0, 300), 30, self.lookup)
        self.realm = self.draw.choice(("default", "ä realm", self.source.text()))
        self.cookie = "__Host-" + "".join(self.draw.choices(string.ascii_letters, k=5))
        self.codec = CookieCodec(
            self.cookie, self.realm, StaticKeys(self.ring), self.draw.randbytes
        )

    def setting(self) -> Line:
        return {
            "keys": [key.export() for key in self.ring.keys],
            "lookup": export_lookup(self.lookup),
            "skew": self.ring.skew,
            "announce": self.ring.announce,
            "realm": self.realm,
            "cookie_name": self.cookie,
        }

    def line(self) -> Line:
        kinds = (self.core, self.core, self.core, self.altered, self.overflow, self.stored)
        more = (self.stored, self.revoked, self.watermark, self.protected)
        return self.draw.choice((*kinds, *more))()

    def record(self) -> tuple[Record, dict[str, object]]:
        draw = self.draw
        values, parts = self.source.encodings(4)
        created = self.now - draw.choice((0, 1, 1000, -5, draw.getrandbits(30)))
        hours = draw.choice((0, 3600, 43200, draw.getrandbits(30), draw.getrandbits(10) * 3600))
        overflow = None
        if draw.random() < 0.3:
            names = tuple(f"over {number}" for number in range(draw.randint(1, 3)))
            overflow = OverflowSet(draw.randbytes(8), draw.randint(1, 7), draw.randbytes(16), names)
        record = Record(
            draw.randbytes(16),
            draw.choice((None, self.source.text(), "alice")),
            created,
            created + hours,
            draw.getrandbits(draw.choice((1, 8, 40))),
            parts,
            overflow,
            self.source.versions("spilled "),
            self.source.versions("left "),
            self.source.terms(),
            self.source.fields(),
        )
        return record, values

    def core(self) -> Line:
        record, values = self.record()
        overflow, terms = record.overflow, record.terms
        described = {
            "id": record.id.hex(),
            "subject": record.subject,
            "created_at": record.created_at,
            "expires_at": record.expires_at,
            "generation": record.generation,
            "parts": {name: data.hex() for name, data in record.parts.items()},
            "overflow": None if overflow is None else _described(overflow),
            "spilled": dict(record.spilled),
            "left": dict(record.orphaned_rows),
            "terms": None if terms is NO_TERMS else terms._asdict(),
            "fields": {str(number): data.hex() for number, data in record.fields.items()},
        }
        text = self.codec.seal_core(encode_record(record, self.now), self.now)
        return self._line("core", text=text, record=described, values=values)

    def altered(self) -> Line:
        """A core with one other bit behind its kid."""
        line = self.core()
        token = bytearray(from_text(line["text"]))
        token[self.draw.randrange(5, len(token))] ^= 1 << self.draw.randrange(8)
        return line | {"text": to_text(bytes(token)), "error": "ForgedToken"}

    def overflow(self) -> Line:
        session_id = self.draw.randbytes(16)
        values, parts = self.source.encodings(6)
        rooms = (self.draw.randint(100, 4000),) * 6 + (1_000_000,)
        overflow, texts = self.codec.seal_overflow(session_id, parts, rooms, self.now)
        record = {"id": session_id.hex(), "overflow": _described(overflow)}
        return self._line("overflow", record=record, texts=texts, values=values)

    def stored(self) -> Line:
        session_id, name = self.draw.randbytes(16), self.source.text()
        value, data = self.source.encoded()
        storage = MemoryStorage(lambda: self.now)
        StoredParts(self._access(storage)).spill(
            session_id, name, data, known=None, base=None, expires_at=self.now + 60
        )
        row = _row(storage, CONTEXT)
        described = describe(value)
        return self._line("stored", session_id=session_id.hex(), part=name, value=described, **row)

    def revoked(self) -> Line:
        session_id, until = self.draw.randbytes(16), self.now + 60
        storage = MemoryStorage(lambda: self.now)
        revocations = Revocations(self._access(storage), self.ring.skew)
        how = self.draw.choice(tuple(Ending))
        says: list[Any] = [how.value]
        if how is Ending.REPLACED:
            marks = [subject_mark(self.draw.choice((None, self.source.text()))) for _ in range(2)]
            successor = Successor(self.draw.randbytes(16), until, marks[0], marks[1])
            revocations.replace(session_id, until, successor)
            says += [self.now, until, successor.id.hex(), *(mark.hex() for mark in marks)]
        else:
            revocations.end(session_id, until, how)
        row = _row(storage, SESSIONS)
        return self._line("revoked", session_id=session_id.hex(), says=says, **row)

    def watermark(self) -> Line:
        subject = self.source.text() or "alice"
        storage = MemoryStorage(lambda: self.now)
        revocations = Revocations(self._access(storage), self.ring.skew)
        revocations.revoke_subject(subject, 60)
        row, time = _row(storage, SUBJECTS), self.now + self.ring.skew
        return self._line("watermark", subject=subject, time=time, **row)

    def protected(self) -> Line:
        name, bound = "invitation", self.draw.choice((None, "", self.source.text()))
        source = StaticKeys(self.ring)
        protector = Protector(name, 3600, self.realm, source, lambda: self.now, self.draw.randbytes)
        value, _ = self.source.encoded()
        text = protector.seal(value, bound)
        return self._line(
            "protected",
            name=name,
            bound=[] if bound is None else [bound],
            text=text,
            max_age=3600,
            value=describe(value),
        )

    def _access(self, storage: MemoryStorage) -> Any:
        return access_of(storage, self.ring, lambda: self.now, self.realm, self.draw.randbytes)

    def _line(self, kind: str, **content: Any) -> Line:
        return {"kind": kind, "now": self.now} | content


def _described(overflow: OverflowSet) -> Line:
    return {
        "set_id": overflow.set_id.hex(),
        "count": overflow.count,
        "digest": overflow.digest.hex(),
        "names": list(overflow.names),
    }


def _row(storage: MemoryStorage, context: str) -> Line:
    (key,) = storage.keys(context)
    stored = storage.read(context, key)
    assert stored is not None
    return {"key": key, "version": stored.version, "token": stored.value.hex()}


def lines(count: int, seed: str) -> Iterator[Line]:
    source = Source(seed)
    for first in range(0, count, GROUP):
        group = Group(source)
        yield group.setting()
        for _ in range(min(GROUP, count - first)):
            yield group.line()


if __name__ == "__main__":
    count, seed = sys.argv[1:]
    for made in lines(int(count), seed):
        print(json.dumps(made))

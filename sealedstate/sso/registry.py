"""The services and methods that have a number: a list that only ever grows, and its file.

Knows texts, numbers, versions and the file's form. Does not know metadata or login records.

A record of service logins names its services by their numbers, so a number must mean the same for
ever: entries are appended, never removed or changed. Each appending makes a version, and a record
states the version that it was written with. The file is UTF-8, a line (ending in a newline) each:

    sealedstate-registry-1
    entity https://sp.example.org/shibboleth
    method https://example.org/methods/passkey
    version 1 8ebd06952f774ed16e49b1319634ff24
    entity https://another.example.org/shibboleth
    version 2 1602d8fc78a54865b051d378051b64aa

Entities are numbered from 0 in the order of their lines, and so are methods. Versions are numbered
from 1. The 32 hex digits are BLAKE2b-128 of all bytes of the file that stand before them. The last
line is a version. An earlier version of the file is its beginning, so that a file that was appended
to opens whatever an older one opened. The checksum tells a cut or edited file, and two files that
do not continue one another; it protects from nobody who wants to write one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from xml.parsers import expat

from ..errors import MetadataUnreadable, RegistryMissing, RegistryUnreadable, UnsupportedValue

FORMAT = "sealedstate-registry-1"
CHECK_BYTES = 2
_VERSION = re.compile(r"([1-9][0-9]{0,8}) ([0-9a-f]{32})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Version:
    """One state of the list: so many `entities` and `methods`, and the file's checksum then."""

    number: int
    entities: int
    methods: int
    checksum: bytes

    @property
    def check(self) -> bytes:
        """What a record repeats of the checksum, so that another file's number is noticed."""
        return self.checksum[:CHECK_BYTES]


NO_VERSION = Version(0, 0, 0, bytes(16))


@dataclass(frozen=True, slots=True)
class Registry:
    """The entities and methods that have a number, and the versions that the list went through."""

    entities: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    versions: tuple[Version, ...] = ()
    _entity_numbers: dict[str, int] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _method_numbers: dict[str, int] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        self._entity_numbers.update((text, at) for at, text in enumerate(self.entities))
        self._method_numbers.update((text, at) for at, text in enumerate(self.methods))

    @property
    def latest(self) -> Version:
        """The version that records are written with."""
        return self.versions[-1] if self.versions else NO_VERSION

    def version(self, number: int, check: bytes) -> Version:
        """The version that a record was written with. Raises RegistryMissing."""
        if not 0 < number <= len(self.versions) or self.versions[number - 1].check != check:
            raise RegistryMissing(number)
        return self.versions[number - 1]

    def entity_number(self, entity_id: str, version: Version) -> int | None:
        """The number that an entityID had in `version`."""
        number = self._entity_numbers.get(entity_id)
        return None if number is None or number >= version.entities else number

    def method_number(self, method: str, version: Version) -> int | None:
        """The number that a method had in `version`."""
        number = self._method_numbers.get(method)
        return None if number is None or number >= version.methods else number


def extended_text(text: str, entities: Iterable[str], methods: Iterable[str] = ()) -> str:
    """The file with what it lacks appended. `text` may be empty. Raises RegistryUnreadable."""
    known = parse_registry(text) if text else Registry()
    fresh = [
        *_lines("entity", entities, set(known.entities)),
        *_lines("method", methods, set(known.methods)),
    ]
    if not fresh:
        return text or f"{FORMAT}\n"
    whole = (text or f"{FORMAT}\n") + "".join(fresh) + f"version {known.latest.number + 1} "
    return whole + _checksum(whole).hex() + "\n"


def parse_registry(text: str) -> Registry:
    """The registry of a file. Raises RegistryUnreadable, which names the line."""
    _check_bytes_kept(text)
    if not text.startswith(f"{FORMAT}\n"):
        raise RegistryUnreadable(f"the registry does not begin with {FORMAT!r}")
    reading = _Reading()
    for number, line in enumerate(text.split("\n")[1:-1], 2):
        reading.read(number, line)
    if reading.open or not text.endswith("\n"):
        raise RegistryUnreadable("the registry does not end with a version: it was cut")
    return Registry(tuple(reading.entities), tuple(reading.methods), tuple(reading.versions))


def load_registry(path: str | Path) -> Registry:
    """The registry of the file at `path`. Raises RegistryUnreadable, also without such a file."""
    try:
        return parse_registry(Path(path).read_bytes().decode())
    except OSError as error:
        why = f"the registry {path} can't be read: {error.strerror}"
        raise RegistryUnreadable(why) from error
    except UnicodeDecodeError:
        raise RegistryUnreadable(f"the registry {path} is not UTF-8") from None


def _check_bytes_kept(text: str) -> None:
    """Say so where an editor or a transfer has changed bytes that nobody sees."""
    if text.startswith("\ufeff"):
        raise RegistryUnreadable("the registry begins with a byte order mark; remove these bytes")
    if "\r\n" in text:
        raise RegistryUnreadable(
            "the registry's line ends are CRLF; they must stay LF, or checksums do not match"
        )


class _Reading:
    """The lines of a file until here, and the hash of their bytes."""

    def __init__(self) -> None:
        self.entities: dict[str, None] = {}
        self.methods: dict[str, None] = {}
        self.versions: list[Version] = []
        self.open = False
        self._hash = hashlib.blake2b(f"{FORMAT}\n".encode(), digest_size=16)

    def read(self, number: int, line: str) -> None:
        kind, _, rest = line.partition(" ")
        texts = {"entity": self.entities, "method": self.methods}.get(kind)
        if texts is not None and rest and rest not in texts:
            texts[rest] = None
            self.open = True
        elif kind == "version" and self.open:
            self._close(number, rest)
        else:
            raise RegistryUnreadable(f"line {number} of the registry: {_why(kind, rest)}")
        self._hash.update(f"{line}\n".encode())

    def _close(self, number: int, rest: str) -> None:
        found = _VERSION.fullmatch(rest)
        if found is None or int(found[1]) != len(self.versions) + 1:
            raise RegistryUnreadable(f"line {number} of the registry: versions count from 1")
        until_here = self._hash.copy()
        until_here.update(f"version {found[1]} ".encode())
        if until_here.hexdigest() != found[2]:
            raise RegistryUnreadable(
                f"line {number} of the registry: the checksum of version {found[1]} does not"
                " match; a registry is only ever appended to"
            )
        sizes = (len(self.entities), len(self.methods))
        self.versions.append(Version(len(self.versions) + 1, *sizes, until_here.digest()))
        self.open = False


def _why(kind: str, rest: str) -> str:
    if kind in ("entity", "method"):
        return "it stands there already" if rest else "it has no text"
    return "a version without a new entry" if kind == "version" else "an entity, method or version"


def _lines(kind: str, texts: Iterable[str], known: set[str]) -> Iterator[str]:
    for text in dict.fromkeys(texts):
        if text in known:
            continue
        if not text or any(letter < " " or "\ud800" <= letter <= "\udfff" for letter in text):
            raise UnsupportedValue(f"an {kind} of the registry", "text without control characters")
        yield f"{kind} {text}\n"


def _checksum(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


# FOLD sealedstate.sso.saml_metadata
# The entityIDs of the service providers in a SAML metadata file, however large it is.
#
# Knows SAML metadata (OASIS saml-metadata-2.0-os) as far as roles. Does not know registries, and
# does
# not check signatures: a registry only shortens what is stored, it trusts nobody.
#
# The file is read in pieces and no tree is built. A document type declaration is refused, so there
# are no entities to expand and nothing else is fetched.


NAMESPACE = "urn:oasis:names:tc:SAML:2.0:metadata"
ENTITY = f"{NAMESPACE} EntityDescriptor"
SERVICE_PROVIDER = f"{NAMESPACE} SPSSODescriptor"
PIECE_BYTES = 1 << 16


def read_service_entity_ids(file: BinaryIO) -> list[str]:
    """Each entityID with the role of a service provider once, in the file's order.

    Raises MetadataUnreadable.
    """
    found = _Found()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler = found.start
    parser.buffer_text = True
    try:
        while piece := file.read(PIECE_BYTES):
            parser.Parse(piece, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise MetadataUnreadable(f"the metadata is no XML: {error}") from None
    return list(found.services)


class _Found:
    """What was read until here. Entities are not nested, only groups of them are."""

    def __init__(self) -> None:
        self.services: dict[str, None] = {}
        self._entity_id: str | None = None

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == ENTITY:
            self._entity_id = attributes.get("entityID")
        elif name == SERVICE_PROVIDER and self._entity_id:
            self.services[self._entity_id] = None


def _refuse(*_declaration: object) -> None:
    raise MetadataUnreadable("the metadata has a document type declaration, which is not read")

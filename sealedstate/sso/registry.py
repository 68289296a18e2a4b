"""The registry of entityIDs and methods that have a number, and its file.

Login records name services by their numbers, so a number must never change its meaning: entries
are appended, never removed or changed. Each extension makes a version, and a record states the
version that it was written with. The file is UTF-8; each line ends in a newline:

    sealedstate-registry-1
    entity https://sp.example.org/shibboleth
    method https://example.org/methods/passkey
    version 1 8ebd06952f774ed16e49b1319634ff24
    entity https://another.example.org/shibboleth
    version 2 1602d8fc78a54865b051d378051b64aa

Entities are numbered from 0 in the order of their lines, and so are methods. Versions are numbered
from 1. The 32 hex digits are BLAKE2b-128 of all bytes of the file before them. The last line is a
version. An earlier version of the file is its beginning, so an extended file opens everything that
the earlier file opened. The checksum detects a cut or edited file, and two files that do not
continue one another; it does not stop an author with bad intentions.

`read_service_entity_ids` takes the entityIDs from SAML metadata (OASIS saml-metadata-2.0-os). It
does not check signatures: a registry shortens what is stored and gives no service any trust.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from xml.parsers import expat

from .._wire.encoding import has_lone_surrogate
from ..errors import MetadataUnreadable, RegistryMissing, RegistryUnreadable, UnsupportedValue

__all__ = [
    "Registry",
    "extend_registry",
    "load_registry",
    "parse_registry",
    "read_service_entity_ids",
]

FORMAT = "sealedstate-registry-1"
CHECK_BYTES = 2
_VERSION = re.compile(r"([1-9][0-9]{0,8}) ([0-9a-f]{32})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Version:
    """One version: how many entities and methods, and the file's checksum."""

    number: int
    entities: int
    methods: int
    checksum: bytes

    @property
    def check(self) -> bytes:
        """The part of the checksum that records repeat, to detect another file."""
        return self.checksum[:CHECK_BYTES]


NO_VERSION = Version(0, 0, 0, bytes(16))


@dataclass(frozen=True, slots=True)
class Registry:
    """The numbered entities and methods, and the versions of the list so far."""

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
        """Return the version that a record was written with. Raises RegistryMissing."""
        if not 0 < number <= len(self.versions) or self.versions[number - 1].check != check:
            raise RegistryMissing(number)
        return self.versions[number - 1]

    def entity_number(self, entity_id: str, version: Version) -> int | None:
        """Return the number of an entityID, if it had one in `version`."""
        number = self._entity_numbers.get(entity_id)
        return None if number is None or number >= version.entities else number

    def method_number(self, method: str, version: Version) -> int | None:
        """Return the number of a method, if it had one in `version`."""
        number = self._method_numbers.get(method)
        return None if number is None or number >= version.methods else number


def extend_registry(text: str, entities: Iterable[str], methods: Iterable[str] = ()) -> str:
    """Return the file `text` with the missing entries in a new version.

    An empty text makes a new file. Raises RegistryUnreadable, or UnsupportedValue for an entry that
    is empty or would break a line.
    """
    known = parse_registry(text) if text else Registry()
    text = text or f"{FORMAT}\n"
    lines = [
        *_lines("entity", entities, set(known.entities)),
        *_lines("method", methods, set(known.methods)),
    ]
    if not lines:
        return text
    text += "".join(lines) + f"version {known.latest.number + 1} "
    return text + hashlib.blake2b(text.encode(), digest_size=16).hexdigest() + "\n"


def parse_registry(text: str) -> Registry:
    """Return the registry of a file's text. Raises RegistryUnreadable."""
    # Editors and transfers change these bytes invisibly.
    if text.startswith("\ufeff"):
        raise RegistryUnreadable("the registry begins with a byte order mark; remove these bytes")
    if "\r\n" in text:
        raise RegistryUnreadable(
            "the registry's line ends are CRLF; they must stay LF, or checksums do not match"
        )
    if not text.startswith(f"{FORMAT}\n"):
        raise RegistryUnreadable(f"the registry does not begin with {FORMAT!r}")
    entries: dict[str, dict[str, None]] = {"entity": {}, "method": {}}
    versions: list[Version] = []
    is_open = False  # whether entries follow the last version
    content = hashlib.blake2b(f"{FORMAT}\n".encode(), digest_size=16)
    for number, line in enumerate(text.split("\n")[1:-1], 2):
        kind, _, rest = line.partition(" ")
        where = f"line {number} of the registry:"
        if kind in entries:
            if not rest or rest in entries[kind]:
                problem = "appears twice" if rest else "has no text"
                raise RegistryUnreadable(f"{where} {kind} {problem}")
            entries[kind][rest] = None
        elif kind != "version":
            raise RegistryUnreadable(f"{where} expected an entity, a method or a version")
        elif not is_open:
            raise RegistryUnreadable(f"{where} a version without a new entry")
        else:
            match, version = _VERSION.fullmatch(rest), len(versions) + 1
            if match is None or int(match[1]) != version:
                raise RegistryUnreadable(f"{where} expected version {version} and its checksum")
            checksum = content.copy()
            checksum.update(f"version {version} ".encode())
            if checksum.hexdigest() != match[2]:
                raise RegistryUnreadable(
                    f"{where} the checksum of version {version} does not match;"
                    " restore the file and only append to it"
                )
            sizes = len(entries["entity"]), len(entries["method"])
            versions.append(Version(version, *sizes, checksum.digest()))
        is_open = kind != "version"
        content.update(f"{line}\n".encode())
    if is_open or not text.endswith("\n"):
        raise RegistryUnreadable("the registry does not end with a version: it was cut")
    return Registry(tuple(entries["entity"]), tuple(entries["method"]), tuple(versions))


def load_registry(path: str | Path) -> Registry:
    """Return the registry of the file at `path`. Raises RegistryUnreadable."""
    try:
        return parse_registry(Path(path).read_bytes().decode())
    except OSError as error:
        raise RegistryUnreadable(f"can't read the registry {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise RegistryUnreadable(f"the registry {path} is not UTF-8") from None


def _lines(kind: str, texts: Iterable[str], known: set[str]) -> Iterator[str]:
    for text in dict.fromkeys(texts):
        if text in known:
            continue
        if not text or has_lone_surrogate(text) or any(letter < " " for letter in text):
            raise UnsupportedValue(
                f"registry {kind}", "must be non-empty valid Unicode without control characters"
            )
        yield f"{kind} {text}\n"


# --- SAML metadata ------------------------------------------------------------------------------

METADATA = "urn:oasis:names:tc:SAML:2.0:metadata"
PIECE_BYTES = 1 << 16


def read_service_entity_ids(file: BinaryIO) -> list[str]:
    """Return the entityIDs of a metadata file's service providers.

    Each occurs once, in the order of the file, which is read in pieces and may be of any size.
    Raises MetadataUnreadable.
    """
    found: dict[str, None] = {}
    entity_id: str | None = None

    def start_element(name: str, attributes: dict[str, str]) -> None:
        # Only groups of entities are nested, entities are not: the last one is the role's.
        nonlocal entity_id
        if name == f"{METADATA} EntityDescriptor":
            entity_id = attributes.get("entityID")
        elif name == f"{METADATA} SPSSODescriptor" and entity_id:
            found[entity_id] = None

    def refuse(*_declaration: object) -> None:
        # Without a declaration there are no entities to expand, and nothing else is fetched.
        raise MetadataUnreadable("the metadata has a document type declaration; remove it")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start_element
    parser.buffer_text = True
    try:
        while piece := file.read(PIECE_BYTES):
            parser.Parse(piece, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise MetadataUnreadable(f"the metadata is not XML: {error}") from None
    return list(found)

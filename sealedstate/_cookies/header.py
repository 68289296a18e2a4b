"""Cookie header to candidates by exact name; Set-Cookie lines.

Knows RFC 6265's syntax and our names. Does not know what a value means.

The scan is linear and byte-exact on purpose: only space and tab are trimmed (other blanks let a
foreign name pose as ours), quotes are ordinary characters (else a quoted foreign value swallows our
cookie), and a pair that is no pair is skipped alone. Set-Cookie lines of one name are written by
one function, so a deletion carries the attributes that browsers ask of it.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from ..errors import ConfigurationError

MAX_HEADER_CHARS = 1 << 16
MAX_CANDIDATES = 4
MAX_COOKIES = 8
NO_CHUNKS: Mapping[int, tuple[str, ...]] = MappingProxyType({})
# "Set-Cookie: " and the line's end travel too.
FIELD_BYTES = len("Set-Cookie: \r\n")
# RFC 6265bis, and what Safari and others make of it.
MAX_LINE_BYTES = 4093

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", re.ASCII)
_ATTRIBUTE_VALUE = re.compile(r"[\x20-\x3a\x3c-\x7e]{1,256}", re.ASCII)
# All that our values are made of: nothing that could end a value or a header's line.
_LETTERS = (string.ascii_letters + string.digits + "._-").encode()
_SAME_SITE = ("Lax", "Strict", "None")


class Candidates(NamedTuple):
    """What one Cookie header holds of ours.

    `core`: at most four different values of the first cookie. `overflow`: values by chunk number,
    from 1. `foreign_bytes`: the rest of the header, with its separators; `our_bytes`: ours, with
    theirs. `crowded`: there are more values of the first cookie than four.
    """

    core: tuple[str, ...] = ()
    overflow: Mapping[int, tuple[str, ...]] = NO_CHUNKS
    foreign_bytes: int = 0
    our_bytes: int = 0
    crowded: bool = False

    def __repr__(self) -> str:
        return f"<Candidates: {len(self.core)} for the core, {len(self.overflow)} chunks>"

    @property
    def any_of_ours(self) -> bool:
        """Whether the browser sent anything under our names."""
        return bool(self.core or self.overflow)


@dataclass(frozen=True, slots=True)
class CookieFamily:
    """The names and attributes of the cookies of one session: core and overflow chunks.

    Raises ConfigurationError for what no browser would keep.
    """

    name: str
    secure: bool = True
    same_site: str = "Lax"
    path: str = "/"
    domain: str | None = None
    partitioned: bool = False
    _attributes: str = field(init=False, repr=False, compare=False)
    _first: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check_names()
        self._check_prefix()
        object.__setattr__(self, "_attributes", self._written_attributes())
        object.__setattr__(self, "_first", f"{self.name}=")

    def chunk_name(self, number: int) -> str:
        """The name of overflow chunk `number`, from 1."""
        return f"{self.name}-{number}"

    def find(self, header: str) -> Candidates:
        """Our candidates in a Cookie header, in one pass over it."""
        size, at = len(header), header.find(self.name)
        if at < 0 or size > MAX_HEADER_CHARS:
            return Candidates(foreign_bytes=size)
        begin, end = header.rfind(";", 0, at) + 1, header.find(";", at)
        end = size if end < 0 else end
        is_only = header.find(self.name, end) < 0 and header.startswith(self._first, at)
        if not is_only or header[begin:at].strip(" \t"):
            return self._sorted(header)
        ours = min(end - begin + 1, size)
        value = header[at + len(self._first) : end].rstrip(" \t")
        return Candidates((value,), NO_CHUNKS, size - ours, ours)

    def _sorted(self, header: str) -> Candidates:
        """Our candidates, where the name is mentioned in more than one pair or in an odd place."""
        found: dict[int, list[str]] = {}
        ours, crowded = 0, False
        for pair in header.split(";"):
            name, equals, value = pair.strip(" \t").partition("=")
            number = self._number_of(name) if equals else None
            if number is None:
                continue
            ours += len(pair) + 1
            values = found.setdefault(number, [])
            if value in values:
                continue
            if len(values) < MAX_CANDIDATES:
                values.append(value)
            elif number == 0:
                crowded = True
        core = tuple(found.pop(0, ()))
        overflow = {number: tuple(values) for number, values in found.items()}
        ours = min(ours, len(header))
        return Candidates(core, overflow, len(header) - ours, ours, crowded)

    def set_line(self, name: str, value: str, max_age: int | None) -> str:
        """A Set-Cookie field value. `max_age` in seconds; None lives as long as the browser."""
        if value.encode().translate(None, _LETTERS):
            raise ValueError("a cookie value of ours has only letters, digits and '._-'")
        age = "" if max_age is None else f"; Max-Age={max_age}"
        return f"{name}={value}{age}{self._attributes}"

    def delete_line(self, name: str) -> str:
        """The Set-Cookie field value that deletes `name`, attributes and all."""
        return f"{name}=; Max-Age=0{self._attributes}"

    def line_overhead(self, name: str, max_age: int | None) -> int:
        """How many bytes a Set-Cookie line takes besides the cookie's value."""
        age = 0 if max_age is None else len(f"; Max-Age={max_age}")
        return FIELD_BYTES + len(name) + 1 + age + len(self._attributes)

    def _number_of(self, name: str) -> int | None:
        """0 for the core, 1 to 7 for a chunk, None for a name that is not ours."""
        if not name.startswith(self.name):
            return None
        rest = name[len(self.name) :]
        if not rest:
            return 0
        # A fixed alphabet of digits: int() would take others, and thousands of them.
        if len(rest) == 2 and rest[0] == "-" and rest[1] in "1234567":
            return ord(rest[1]) - ord("0")
        return None

    def _written_attributes(self) -> str:
        domain = f"; Domain={self.domain}" if self.domain else ""
        secure = "; Secure" if self.secure else ""
        partitioned = "; Partitioned" if self.partitioned else ""
        same_site = f"; SameSite={self.same_site}"
        return f"; Path={self.path}{domain}{secure}; HttpOnly{same_site}{partitioned}"

    def _check_names(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise ConfigurationError("cookie_name: up to 64 characters of RFC 6265's token")
        for setting, value in (("cookie_path", self.path), ("cookie_domain", self.domain or ".")):
            if _ATTRIBUTE_VALUE.fullmatch(value) is None:
                raise ConfigurationError(f"{setting}: printable ASCII without ';'")
        if not self.path.startswith("/"):
            # Browsers would take the folder of the page instead: a cookie for each.
            raise ConfigurationError("cookie_path: begins with '/'")
        if self.same_site not in _SAME_SITE:
            raise ConfigurationError(f"same_site: one of {', '.join(_SAME_SITE)}")

    def _check_prefix(self) -> None:
        prefix = self.name.lower()  # browsers compare it so
        host = prefix.startswith("__host-")
        if (host or prefix.startswith("__secure-")) and not self.secure:
            raise ConfigurationError("cookie_name: a __Host- or __Secure- cookie must be secure")
        if host and (self.path != "/" or self.domain):
            raise ConfigurationError("cookie_name: a __Host- cookie has Path=/ and no Domain")
        if (self.same_site == "None" or self.partitioned) and not self.secure:
            raise ConfigurationError("same_site: None and partitioned need a secure cookie")


def field_bytes(line: str) -> int:
    """How many bytes a Set-Cookie field takes in the response, its name included."""
    return FIELD_BYTES + len(line)

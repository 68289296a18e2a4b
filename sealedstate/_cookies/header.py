"""The Cookie header, and Set-Cookie lines, by RFC 6265's syntax.

The scan of a Cookie header, of any length, is linear and byte-exact: it trims only space and tab
(with other blanks trimmed, a foreign name could pose as our name), quotes are ordinary characters
(otherwise a quoted foreign value could swallow our cookie), and a malformed pair is skipped without
affecting others.

A request may have several Cookie lines: proxies pass the crumbs of HTTP/2 on as lines. WSGI servers
join them with a comma. Our values contain no comma, so one ends them. Our name after a comma begins
a cookie or ends a foreign value, which looks the same; it counts only if no pair after a semicolon
opens.

A cookie is set and deleted with the same attributes, because browsers delete by name, domain and
path, and a name that begins with __Host-Http- only with Secure and HttpOnly.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType

from .._wire.encoding import LAST_LETTERS
from ..errors import ConfigurationError, quote_text

_new = object.__new__
# Values for the core that are tried: more than paths and domains of one application have. Nothing
# but the browser ends the withholding of a good cookie behind as many others.
MAX_CANDIDATES = 16
# Values of one chunk that are tried.
MAX_CHUNK_VALUES = 4
MAX_COOKIES = 8
# Our pairs of one header that are looked at, the same values included: more than are tried of all
# names. Then the cookie counts as crowded.
MAX_PAIRS = 64
NO_CHUNKS: Mapping[int, tuple[str, ...]] = MappingProxyType({})
# The bytes of a Set-Cookie field besides its value.
FIELD_BYTES = len("Set-Cookie: \r\n")
# RFC 6265bis says 4096; browsers differ in what they count.
MAX_LINE_BYTES = 4093

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", re.ASCII)
_ATTRIBUTE_VALUE = re.compile(r"[\x20-\x3a\x3c-\x7e]{1,256}", re.ASCII)
# Our values have only these letters, so none can end a value or a header line.
_LETTERS = (string.ascii_letters + string.digits + LAST_LETTERS).encode()
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_SAME_SITE = ("Lax", "Strict", "None")


# Not frozen, because every request makes one, and a frozen dataclass costs three times as much.
@dataclass(slots=True)
class Candidates:
    """Our cookies in one Cookie header.

    `core`: at most 16 different values of the core's cookie. `overflow`: values by chunk number,
    from 1. `our_bytes`: our pairs and their separators; `foreign_bytes`: the rest of the header.
    `crowded`: whether there are more values for the core. `joined`: candidates for the core after a
    comma, if there are others; they count if no other opens.
    """

    core: tuple[str, ...] = ()
    overflow: Mapping[int, tuple[str, ...]] = field(default_factory=lambda: NO_CHUNKS)
    foreign_bytes: int = 0
    our_bytes: int = 0
    crowded: bool = False
    joined: Candidates | None = None

    def __repr__(self) -> str:
        return f"<Candidates: {len(self.core)} for the core, {len(self.overflow)} chunks>"


@dataclass(frozen=True, slots=True)
class CookieFamily:
    """The names and attributes of the cookies of one session.

    `joined_lines`: whether a comma may separate two cookies in a Cookie header. Raises
    ConfigurationError for combinations that browsers reject.
    """

    name: str
    secure: bool = True
    same_site: str = "Lax"
    path: str = "/"
    domain: str | None = None
    partitioned: bool = False
    joined_lines: bool = True
    # Made once: the pattern of our pairs, "NAME=", and "; Path=/; ...".
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _core_prefix: str = field(init=False, repr=False, compare=False)
    _attributes: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise ConfigurationError(
                "cookie_name: must be 1 to 64 characters of a token of RFC 6265;"
                f" got {quote_text(self.name)}"
            )
        for setting, value in (("cookie_path", self.path), ("cookie_domain", self.domain or ".")):
            if _ATTRIBUTE_VALUE.fullmatch(value) is None:
                raise ConfigurationError(
                    f"{setting}: must be 1 to 256 printable ASCII characters without ';'"
                )
        if not self.path.startswith("/"):
            # Browsers would use the folder of the page instead, and keep a cookie for each folder.
            raise ConfigurationError(
                f"cookie_path: must begin with '/', got {quote_text(self.path)}"
            )
        if re.search(r"[ ?#]", self.path):
            # Browsers cut blanks off, and no request's path has the others.
            raise ConfigurationError(
                f"cookie_path: must not contain a blank, '?' or '#'; got {quote_text(self.path)}"
            )
        if self.domain:
            check_domain("cookie_domain", self.domain)
        if self.same_site not in _SAME_SITE:
            raise ConfigurationError(
                f"same_site: expected one of {', '.join(_SAME_SITE)},"
                f" got {quote_text(self.same_site)}"
            )
        prefix = self.name.lower()  # browsers compare the prefix without case
        is_host = prefix.startswith("__host-")
        # Our cookies are always HttpOnly, which __Http- and __Host-Http- ask for, too.
        if prefix.startswith(("__host-", "__secure-", "__http-")) and not self.secure:
            raise ConfigurationError(
                "cookie_name: a __Host-, __Http- or __Secure- cookie must be secure;"
                " for http on localhost choose a name without the prefix"
            )
        if is_host and (self.path != "/" or self.domain):
            raise ConfigurationError(
                "cookie_name: a __Host- cookie must have cookie_path '/' and no cookie_domain"
            )
        if (self.same_site == "None" or self.partitioned) and not self.secure:
            raise ConfigurationError("same_site: None and partitioned must have a secure cookie")
        if self.partitioned and self.same_site != "None":
            # It is for pages within pages of another site, to which other cookies are not sent.
            raise ConfigurationError(
                "partitioned: needs same_site 'None', or browsers drop the cookie where it counts"
            )
        domain = f"; Domain={self.domain}" if self.domain else ""
        secure = "; Secure" if self.secure else ""
        partitioned = "; Partitioned" if self.partitioned else ""
        attributes = (
            f"; Path={self.path}{domain}{secure}; HttpOnly; SameSite={self.same_site}{partitioned}"
        )
        pattern = pair_pattern(self.name, f"(?:-([1-{MAX_COOKIES - 1}]))?")
        object.__setattr__(self, "_pattern", pattern)
        object.__setattr__(self, "_core_prefix", f"{self.name}=")
        object.__setattr__(self, "_attributes", attributes)

    @property
    def variant(self) -> tuple[str, ...]:
        """By what browsers distinguish cookies of one name: path, domain and partitioning.

        Empty for a cookie with Path=/ alone. In the spelling of the specification.
        """
        domain = (self.domain or "").lower().removeprefix(".")
        variant = self.path, domain, "partitioned" if self.partitioned else ""
        return () if variant == ("/", "", "") else variant

    def chunk_name(self, number: int) -> str:
        """The name of overflow chunk `number`, from 1."""
        return f"{self.name}-{number}"

    @property
    def bound_name(self) -> str:
        """The name of the short-lived cookie of a session that is bound to a device.

        Chromium binds no cookie whose prefix says Http; such a name keeps the rest of its prefix.
        """
        name = self.name
        for prefix, bound in (("__host-http-", "__Host-"), ("__http-", "__Secure-")):
            if name.lower().startswith(prefix):
                name = bound + name[len(prefix) :]
        return f"{name}-bound"

    @property
    def attributes(self) -> str:
        """The attributes of every cookie, such as ``Path=/; Secure; HttpOnly; SameSite=Lax``."""
        return self._attributes.removeprefix("; ")

    def overlaps(self, other: CookieFamily) -> bool:
        """Whether some name of a core, of a chunk or of a bound cookie belongs to both."""
        first, second = (
            {family.name, family.bound_name, *map(family.chunk_name, range(1, MAX_COOKIES))}
            for family in (self, other)
        )
        return not first.isdisjoint(second)

    def find(self, header: str) -> Candidates:
        """Our candidates in a Cookie header, in one pass over it."""
        name = self.name
        before, prefix, after = header.partition(self._core_prefix)
        if not prefix:
            if name in header:
                return self._scan(header)
            return Candidates(foreign_bytes=len(header))
        # Mostly the name occurs once, as the name of a pair.
        value, separator, rest = after.partition(";")
        others = before.rstrip(" \t")
        if name in before or name in rest or "," in value or (others and others[-1] != ";"):
            return self._scan(header)
        foreign_bytes = len(others) + len(rest)
        if others and not separator:
            foreign_bytes -= 1  # the last pair has its separator before it
        # Half the cost of `Candidates(...)`.
        found = _new(Candidates)
        found.core, found.overflow = (value.rstrip(" \t"),), NO_CHUNKS
        found.foreign_bytes, found.our_bytes = foreign_bytes, len(header) - foreign_bytes
        found.crowded, found.joined = False, None
        return found

    def find_bound(self, header: str) -> list[str]:
        """The values of the bound cookie in a Cookie header, as many as are tried."""
        pairs = iterate_pairs(header, pair_pattern(self.bound_name))
        return [value for _, value, _, _ in islice(pairs, MAX_CHUNK_VALUES)]

    def _scan(self, header: str) -> Candidates:
        """The same, if our name occurs several times or in an unexpected place."""
        found: dict[int, _Values] = {}
        joined: dict[int, _Values] = {}
        our_bytes = pairs = 0
        for chunk, value, size, is_joined in iterate_pairs(header, self._pattern):
            if is_joined and not self.joined_lines:
                continue
            our_bytes += size
            # Pairs after a comma do not count: they may be in the value of a foreign cookie, which
            # must not hide our own cookies.
            pairs += not is_joined
            if pairs > MAX_PAIRS:
                found.setdefault(0, _Values()).crowded = True
                break
            number = int(chunk or 0)
            values = (joined if is_joined else found).setdefault(number, _Values())
            values.add(value, MAX_CHUNK_VALUES if number else MAX_CANDIDATES)
        core, joined_core = found.pop(0, None), joined.pop(0, None)
        overflow = {number: tuple(values.first) for number, values in found.items()}
        for number, values in joined.items():
            first = dict.fromkeys((*overflow.get(number, ()), *values.first))
            overflow[number] = tuple(first)[:MAX_CHUNK_VALUES]
        others = None
        if core is None:
            core = joined_core or _Values()
        elif joined_core is not None:
            others = Candidates(tuple(joined_core.first), crowded=joined_core.crowded)
        foreign_bytes = len(header) - our_bytes
        first_values = tuple(core.first)
        return Candidates(first_values, overflow, foreign_bytes, our_bytes, core.crowded, others)

    def set_line(self, name: str, value: str, max_age: int | None) -> str:
        """A Set-Cookie field value; `max_age` in seconds, None for a browser session."""
        if value.encode().translate(None, _LETTERS):
            raise ValueError(f"value: must consist of letters, digits and {LAST_LETTERS!r}")
        age = "" if max_age is None else f"; Max-Age={max_age}"
        return f"{name}={value}{age}{self._attributes}"

    def delete_line(self, name: str) -> str:
        """The Set-Cookie field value that deletes `name`."""
        return f"{name}=; Max-Age=0{self._attributes}"

    def line_overhead(self, name: str, max_age: int | None) -> int:
        """How many bytes a Set-Cookie field takes besides the cookie's value."""
        age = 0 if max_age is None else len(f"; Max-Age={max_age}")
        return FIELD_BYTES + len(name) + 1 + age + len(self._attributes)


def check_domain(setting: str, domain: str) -> None:
    """Refuse a Domain attribute with which browsers drop a cookie (RFC 6265bis, section 5.7).

    `setting`: its name in errors. Raises ConfigurationError.
    """
    shown, name = quote_text(domain), domain.removeprefix(".")
    problem = None
    if "://" in domain:
        problem = "expected a host name without a scheme"
    elif "*" in domain:
        problem = "a cookie of a domain is sent to all its subdomains; leave out '*.'"
    elif re.fullmatch(
        r"\[.*\]|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*|(?:.*\.)?[0-9]+\.?", name
    ):
        problem = "browsers keep no cookie for an IP address with a domain; leave the setting out"
    elif ":" in domain:
        problem = "cookies do not depend on the port; leave it out"
    elif "/" in domain:
        problem = "expected a host name; a path is set by cookie_path"
    elif not domain.isascii():
        problem = "expected ASCII letters; a name with other letters begins with xn--"
    elif len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        problem = "expected a host name such as example.org, without blanks or a dot at its end"
    elif "." not in name:
        problem = (
            "browsers keep no cookie for a whole top-level domain, nor for localhost;"
            " leave the setting out"
        )
    if problem is not None:
        raise ConfigurationError(f"{setting}: {problem}; got {shown}")


class _Values:
    """The first different values of one name. `crowded`: whether there are more."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.crowded = False

    def add(self, value: str, limit: int) -> None:
        if value not in self.first:
            if len(self.first) < limit:
                self.first.append(value)
            else:
                self.crowded = True


def pair_pattern(name: str, suffix: str = "()") -> re.Pattern[str]:
    """What `iterate_pairs` looks for. `suffix`: a pattern with one group."""
    # It begins with a literal, which `re` finds fast.
    return re.compile(f"{re.escape(name)}{suffix}=")


def iterate_pairs(
    header: str, pattern: re.Pattern[str]
) -> Iterator[tuple[str | None, str, int, bool]]:
    """Suffix of the name, value and size of each pair, and whether a comma is before it.

    The size includes one separator, if there is one.
    """
    # Where the next value ends: each is looked for once, so that the scan is linear.
    at, semicolon, comma = 0, -1, -1
    while (match := pattern.search(header, at)) is not None:
        begin, at = match.span()
        while begin and header[begin - 1] in " \t":
            begin -= 1
        separator = header[begin - 1 : begin]
        if separator in ("", ";", ","):
            if semicolon < at and (semicolon := header.find(";", at)) < 0:
                semicolon = len(header)
            if comma < at and (comma := header.find(",", at)) < 0:
                comma = len(header)
            start, at = at, min(semicolon, comma)
            # The first pair has its separator behind it.
            size = at - begin + (1 if separator else at < len(header))
            yield match[1], header[start:at].rstrip(" \t"), size, separator == ","


def field_bytes(line: str | bytes) -> int:
    """How many bytes a Set-Cookie field takes in the response, its name included."""
    return FIELD_BYTES + len(line)


def merge_lines(before: list[str], after: list[str]) -> list[str]:
    """The Set-Cookie lines of two saves of one response: the later line of each cookie counts.

    A cookie is known by its name and its attributes, without Max-Age.
    """
    if not before:
        return after
    lines: dict[tuple[str, ...], str] = {}
    for line in [*before, *after]:
        pair, *attributes = line.split("; ")
        place = (pair.partition("=")[0], *(each for each in attributes if "Max-Age" not in each))
        lines.pop(place, None)
        lines[place] = line
    return list(lines.values())
